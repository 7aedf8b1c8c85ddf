"""The memory of a method during one run: tensors with one row for each image.

A method sees only the rows that it acts on, so that one image's history never touches another's.
What is written counts from the next solver step on, and only the first evaluation of a step
writes: the second stage of a Heun step reads the same history as the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .types import Step, put, take


class State:
    """Rows of named tensors; ``batch`` rows in all."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._kept: dict[str, Tensor] = {}
        self._written: dict[str, Tensor] = {}
        self._frozen = False

    def begin(self, step: Step) -> None:
        """A new evaluation: what the last step wrote counts now, if this is a new step."""
        self._frozen = step.stage > 0
        if not self._frozen:
            self._kept = {**self._kept, **self._written}
            self._written = {}

    def view(self, rows: Sequence[int]) -> Rows:
        return Rows(self, rows)

    def host(self, name: str, default: float) -> list[float]:
        """The rows of a tensor (batch,) as numbers on the host; waits for the device."""
        if name not in self._kept:
            return [default] * self.batch
        return self._kept[name].tolist()


class Rows:
    """The rows of a ``State`` that a method acts on."""

    def __init__(self, state: State, rows: Sequence[int]) -> None:
        self._state, self._rows = state, rows

    def get(self, name: str, default: Tensor) -> Tensor:
        """The kept rows, or ``default`` (rows, ...) where nothing was ever kept."""
        kept = self._state._kept.get(name)
        return default if kept is None else take(kept, self._rows)

    def set(self, name: str, value: Tensor) -> None:
        """Keep (rows, ...) for the next step."""
        state = self._state
        if state._frozen:
            return
        full = state._kept.get(name)
        if full is None:
            full = value.new_zeros((state.batch, *value.shape[1:]))
        state._written[name] = put(full, self._rows, value)
