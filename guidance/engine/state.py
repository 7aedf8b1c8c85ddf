"""The memory of a method during one run: tensors with one row for each image.

A method sees only the rows that it acts on, so that one image's history never touches another's.
What is written counts from the next solver step on, and only the first evaluation of a step
writes: the second stage of a Heun step reads the same history as the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .context import Context
from .levels import Step
from .tensors import put, take
from .vectors import Numbers, Vector


class State:
    """Rows of named tensors; ``batch`` rows in all.

    Attributes:
        off: the scale at which the method does nothing.
        images: for each row, its image's number in the whole batch.
        context: what the method may ask of its pipeline.
        solver_step: the number of the solver step, from 0; its stages share it. What a method
            draws at random from it is the same for all of them.
    """

    def __init__(
        self,
        batch: int,
        off: float = 1.0,
        images: Sequence[int] | None = None,
        context: Context | None = None,
    ) -> None:
        self.batch, self.off = batch, off
        self.images = range(batch) if images is None else images
        self.context = Context() if context is None else context
        # A tensor of the whole batch, and a number that it is to be multiplied with.
        self._kept: dict[str, tuple[Tensor, float]] = {}
        self._written: dict[str, tuple[Tensor, float]] = {}
        self._frozen = False
        self.solver_step = -1

    def begin(self, step: Step) -> None:
        """A new evaluation: what the last step wrote counts now, if this is a new step."""
        self._frozen = step.stage > 0
        self.solver_step += step.stage == 0 or self.solver_step < 0
        if not self._frozen:
            self._kept = {**self._kept, **self._written}
            self._written = {}

    def all(self) -> dict[str, Tensor]:
        """All that is kept, as it will count at the next step."""
        return {name: kept for name, (kept, _) in (self._kept | self._written).items()}

    def view(self, rows: Sequence[int]) -> Rows:
        return Rows(self, rows)

    def host(self, name: str, default: float) -> list[float]:
        """The rows of a tensor (batch,) as numbers on the host; waits for the device."""
        if name not in self._kept:
            return [default] * self.batch
        return self._kept[name][0].tolist()


class Rows:
    """The rows of a ``State`` that a method acts on."""

    def __init__(self, state: State, rows: Sequence[int]) -> None:
        self._state, self._rows = state, rows

    @property
    def context(self) -> Context:
        """What the method may ask of its pipeline."""
        return self._state.context

    @property
    def prompts(self) -> list:
        """For each row what its image is asked to be; None where that is not known."""
        known = self.context.prompts
        images = [self._state.images[row] for row in self._rows]
        return [known[image] if image < len(known) else None for image in images]

    def get(self, name: str, default: Any) -> Any:
        """The kept rows, or ``default`` (rows, ...) where nothing was ever kept.

        They are as the default is: a tensor, a ``Vector``, or ``Numbers``.
        """
        kept = self._state._kept.get(name)
        return default if kept is None else self._as(default, kept)

    def has(self, name: str) -> bool:
        """Was anything kept under this name, for these rows or others?"""
        return name in self._state._kept

    def latest(self, name: str) -> list[float]:
        """What was set last, at this evaluation or before, as numbers; waits for the device."""
        state = self._state
        found = state._written.get(name, state._kept.get(name))
        assert found is not None, f"{name} was never set"
        return take(found[0], self._rows).tolist()

    def set(self, name: str, value: Any) -> Any:
        """Keep (rows, ...) for the next step; rows that are never set are 0.

        Args:
            value: a tensor, a ``Vector``, which is written once, or ``Numbers``.

        Returns:
            The same; a ``Vector`` as the one tensor that was written.
        """
        state, tensor, factor = self._state, value, 1.0
        if isinstance(value, Vector):
            tensor, factor = value.written()
        elif isinstance(value, Numbers):
            tensor = value.values
        if not state._frozen:
            state._written[name] = self._in_batch(name, tensor, factor)
        return Vector.of(tensor, weight=factor) if isinstance(value, Vector) else value

    def _in_batch(self, name: str, tensor: Tensor, factor: float) -> tuple[Tensor, float]:
        """What is kept of the whole batch once these rows are set."""
        state = self._state
        if len(tensor) == state.batch:
            return tensor, factor
        nothing = tensor.new_zeros((state.batch, *tensor.shape[1:])), factor
        full, before = state._written.get(name, state._kept.get(name, nothing))
        rows = tensor if factor == before else tensor * (factor / before)
        return put(full, self._rows, rows), before

    def _as(self, like: Any, kept: tuple[Tensor, float]) -> Any:
        tensor, factor = take(kept[0], self._rows), kept[1]
        if isinstance(like, Vector):
            return Vector.of(tensor, weight=factor)
        return Numbers(tensor) if isinstance(like, Numbers) else tensor
