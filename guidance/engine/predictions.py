"""What a network is asked, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .levels import Level, Readout, Step
from .vectors import leaf_of, take, working


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


def with_x0(prediction: Prediction, x0: Tensor) -> Tensor:
    """The output (B, ...) that means this clean image."""
    return working(prediction.output) + (x0 - prediction.x0) / prediction.readout.gain
