"""What a network is asked, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from .levels import Level, Readout, Step
from .tensors import leaf_of, take, upcast
from .vectors import Span, Vector


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
        leaf, total = self.watch.leaf, upcast(values).sum()
        for factor in (2.0**16, 2.0**8, 1.0) if leaf.dtype == torch.float16 else (1.0,):
            (found,) = torch.autograd.grad(
                factor * total, leaf, retain_graph=True, allow_unused=True
            )
            if found is None:
                raise ValueError("values do not depend on x; allowed are those that can be derived")
            if factor == 1 or found.isfinite().all():
                found = upcast(found) / factor
                break
        found = found if self.watch.rows is None else take(found, self.watch.rows)
        return found[(slice(None), *(slice(size) for size in self.x.shape[1:]))]


@dataclass(frozen=True, eq=False)
class Prediction:
    """One branch's answer: the network's ``output`` at ``x``, both (B, ...), and how to read it.

    Attributes:
        inner: tensors (B, ...) from within the network, by name, see ``Perturbation.apply``.
        origin: the positive prediction, where this one is written as the gap to it.
    """

    x: Tensor
    output: Tensor
    readout: Readout
    inner: Mapping[str, Tensor] = field(default_factory=dict)
    origin: Prediction | None = None

    @cached_property
    def vector(self) -> Vector:
        """The output as a vector, in the parameterisation of the origin."""
        if self.origin is not None:
            return self.origin.vector - self._gap / self.origin.readout.gain
        return Vector.of(upcast(self.output), self._span)

    @cached_property
    def x0(self) -> Vector:
        """The clean image as a vector; ``x0.tensor()`` is (B, ...), in at least float32."""
        if self.origin is not None:
            return self.origin.x0 - self._gap
        return self._mixed(self.readout.skip, self.readout.gain)

    def eps(self, level: Level) -> Vector:
        """The noise that this prediction implies, ``(x - alpha * x0) / sigma``, as a vector."""
        if self.origin is not None:
            return self.origin.eps(level) + self._gap * (level.alpha / level.std)
        x = (1 - level.alpha * self.readout.skip) / level.std
        return self._mixed(
            x if abs(x) > 1e-9 else 0.0, -level.alpha * self.readout.gain / level.std
        )

    def __sub__(self, other: Prediction) -> Vector:
        """The difference of the clean images, in which ``x`` does not cancel: it never enters."""
        if other.origin is self:
            return other._gap
        if self.origin is other:
            return -self._gap
        return other.relative_to(self)._gap

    def relative_to(self, origin: Prediction) -> Prediction:
        """The same, written as the gap to another prediction at the same x."""
        return replace(self, origin=origin)

    @cached_property
    def _gap(self) -> Vector:
        """The origin's clean image less this one."""
        origin = self.origin
        assert origin is not None
        if origin.readout == self.readout:
            ours, theirs = self.output, origin.output
            return Vector.of(lambda: upcast(theirs) - ours, self._span, self.readout.gain)
        own = Prediction(self.x, self.output, self.readout).x0
        clean = origin.x0
        return Vector.of(lambda: (clean - own).tensor(), self._span)

    def _mixed(self, x: float, output: float) -> Vector:
        """``x * self.x + output * self.output``, of which one pass makes the tensor."""
        if not x:
            return self.vector * output
        seen, said = self.x, self.output
        if abs(x) < abs(output):
            return Vector.of(
                lambda: torch.add(upcast(said), upcast(seen), alpha=x / output), self._span, output
            )
        return Vector.of(
            lambda: torch.add(upcast(seen), upcast(said), alpha=output / x), self._span, x
        )

    @cached_property
    def _span(self) -> Span:
        return Span() if self.origin is None else self.origin._span

    def close(self) -> None:
        """The step is over, and with it the vectors that were made of this prediction."""
        self._span.over = True

    def output_as(self, readout: Readout) -> Tensor:
        """The output (B, ...) of a network read by ``readout`` that means the same clean image."""
        if self.readout == readout:
            return upcast(self.output)
        return (self.readout.x0(self.x, self.output) - readout.skip * upcast(self.x)) / readout.gain

    def rows(self, rows: Sequence[int]) -> Prediction:
        inner = {name: take(value, rows) for name, value in self.inner.items()}
        return Prediction(take(self.x, rows), take(self.output, rows), self.readout, inner)

    def detach(self) -> Prediction:
        return Prediction(self.x.detach(), self.output.detach(), self.readout, self.inner)
