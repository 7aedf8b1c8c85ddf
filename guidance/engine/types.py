"""What passes between a sampler, a guider and a network in one evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """A noise level: ``x = alpha * x0 + sigma * eps`` with unit normal ``eps``."""

    alpha: float
    sigma: float

    @property
    def edm(self) -> float:
        """``sigma / alpha``: the noise level of Karras et al. (2022), the same on every scale.

        Intervals and records are in this unit. Infinite at ``alpha = 0``.
        """
        return self.sigma / self.alpha if self.alpha else math.inf


@dataclass(frozen=True)
class Readout:
    """How a network's output is read as a clean image: ``x0 = skip * x + gain * output``.

    Every parameterisation is of this form (x is what the network sees), for a VP level:
    eps ``(1 / alpha, -sigma / alpha)``, v ``(alpha, -sigma)``, sample ``(0, 1)``; for rectified
    flow ``(1, -sigma)``; EDM preconditioning ``(c_skip / c_in, c_out)``. ``gain`` is also the
    factor between a gap in output space and the same gap in x0 space.
    """

    skip: float
    gain: float

    def x0(self, x: Tensor, output: Tensor) -> Tensor:
        """The clean image, in at least float32; shapes as given, (B, ...)."""
        return self.skip * working(x) + self.gain * working(output)


@dataclass(frozen=True)
class Step:
    """Where a run is.

    Attributes:
        index: the evaluation's number in the run, from 0.
        total: evaluations in the run (Heun has 19 for 10 steps, PNDM 11).
        stage: 0 for the first evaluation of a solver step, above for the others of the same step.
        level: the noise level of this evaluation.
        next_level: that of the next one, and after the last one where the run ends; ``None`` is
            the clean image.
    """

    index: int
    total: int
    stage: int
    level: Level
    next_level: Level | None = None

    @property
    def sigma(self) -> float:
        """The noise level in EDM's unit, see ``Level.edm``."""
        return self.level.edm

    @property
    def next_sigma(self) -> float:
        """The noise level that the solver goes to next, in EDM's unit; 0 is the clean image."""
        return self.next_level.edm if self.next_level else 0.0

    @property
    def progress(self) -> float:
        """0 at the first evaluation, 1 at the last."""
        return self.index / (self.total - 1) if self.total > 1 else 0.0


@dataclass(frozen=True)
class Watch:
    """The tensor by which terms differentiate what a network said. ``rows`` are those of it that a
    query is about."""

    leaf: Tensor
    rows: Sequence[int] | None = None


@dataclass(frozen=True)
class Query:
    """A denoiser's question: the clean image behind ``x`` (B, ...) at ``step``.

    ``watch`` is set where a term asked for gradients through the network.
    """

    x: Tensor
    step: Step
    watch: Watch | None = None

    def rows(self, rows: Sequence[int]) -> Query:
        watch = self.watch
        if watch is not None:
            before = watch.rows
            watch = replace(watch, rows=rows if before is None else [before[row] for row in rows])
        return Query(take(self.x, rows), self.step, watch)

    def watched(self) -> Query:
        """The same question, with ``x`` ready to be differentiated by."""
        leaf = self.x if self.x.requires_grad else leaf_of(self.x)
        return Query(leaf, self.step, Watch(leaf))

    def gradient(self, values: Tensor) -> Tensor:
        """The gradient (B, ...) of ``values`` (B,), each by its own image's ``x``; a constant.

        On the way through a network in float16 it is made as large as it can be without overflow:
        that of a mean over the pixels of a large picture would vanish.

        Raises:
            ValueError: the values do not depend on ``x``, or no term asked for gradients.
        """
        if self.watch is None or not values.requires_grad:
            raise ValueError("values do not depend on x; allowed are those that can be derived")
        leaf, total = self.watch.leaf, working(values).sum()
        for factor in (2.0**16, 2.0**8, 1.0) if leaf.dtype == torch.float16 else (1.0,):
            (found,) = torch.autograd.grad(
                factor * total, leaf, retain_graph=True, allow_unused=True
            )
            if found is None:
                raise ValueError("values do not depend on x; allowed are those that can be derived")
            if factor == 1 or found.isfinite().all():
                found = working(found) / factor
                break
        found = found if self.watch.rows is None else take(found, self.watch.rows)
        return found[(slice(None), *(slice(size) for size in self.x.shape[1:]))]


@dataclass(frozen=True)
class Prediction:
    """One branch's answer: the network's ``output`` at ``x``, both (B, ...), and how to read it."""

    x: Tensor
    output: Tensor
    readout: Readout

    @property
    def x0(self) -> Tensor:
        """The clean image (B, ...), in at least float32."""
        return self.readout.x0(self.x, self.output)

    def eps(self, level: Level) -> Tensor:
        """The noise (B, ...) this prediction implies, ``(x - alpha * x0) / sigma``."""
        return (working(self.x) - level.alpha * self.x0) / level.sigma

    def minus(self, other: Prediction) -> Tensor:
        """The difference of the clean images, without cancelling ``x`` where both share it."""
        if self.readout == other.readout:
            return self.readout.gain * (working(self.output) - working(other.output))
        return self.x0 - other.x0

    def output_as(self, readout: Readout) -> Tensor:
        """The output (B, ...) of a network read by ``readout`` that means the same clean image."""
        if self.readout == readout:
            return working(self.output)
        return (self.x0 - readout.skip * working(self.x)) / readout.gain

    def rows(self, rows: Sequence[int]) -> Prediction:
        return Prediction(take(self.x, rows), take(self.output, rows), self.readout)

    def detach(self) -> Prediction:
        return Prediction(self.x.detach(), self.output.detach(), self.readout)


@contextmanager
def differentiable(on: bool = True) -> Iterator[None]:
    """Record gradients inside, even under a caller's ``no_grad`` or ``inference_mode``."""
    if not on:
        yield
        return
    with torch.inference_mode(False), torch.enable_grad():
        yield


def leaf_of(tensor: Tensor) -> Tensor:
    """A copy to differentiate by, whatever mode the tensor was made in."""
    with differentiable():
        return tensor.detach().clone().requires_grad_()


def working(tensor: Tensor) -> Tensor:
    """In at least float32, in which all guidance arithmetic is done."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def take(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """``tensor[rows]``, and the tensor itself where that is all of it in order."""
    if list(rows) == list(range(len(tensor))):
        return tensor
    return tensor[torch.as_tensor(rows, device=tensor.device, dtype=torch.long)]


def put(tensor: Tensor, rows: Sequence[int], value: Tensor) -> Tensor:
    """A copy of ``tensor`` with ``value`` in ``rows``."""
    if list(rows) == list(range(len(tensor))):
        return value
    index = torch.as_tensor(rows, device=tensor.device, dtype=torch.long)
    return tensor.index_copy(0, index, value)


def per_image(values: Sequence[float], like: Tensor) -> Tensor:
    """Host numbers as (B, 1, ..., 1), to multiply a tensor (B, ...)."""
    tensor = torch.tensor(values, dtype=like.dtype, device=like.device)
    return tensor.view(-1, *[1] * (like.dim() - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product over all but the batch dimension, (B,) in float64 where there is one."""
    return (wide(a) * wide(b)).flatten(1).sum(dim=1)


def wide(tensor: Tensor) -> Tensor:
    """In float64, or float32 on devices that have no more."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ..., 1) in the type of ``like`` (B, ...)."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of two batches of images (B, ...), per image: (B,). Zero vectors give 0."""
    norms = (dot(a, a) * dot(b, b)).sqrt()
    return dot(a, b) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
