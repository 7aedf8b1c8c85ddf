"""A guidance scale that changes in equal parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..engine.config import number
from ..engine.levels import Step
from ..engine.scale import Scale
from ..engine.state import State


@dataclass(frozen=True)
class Linear(Scale):
    """From ``start`` at the first evaluation to ``end`` at the last, in equal parts.

    Wang et al. 2024 (arXiv:2404.13040) found scales that rise during sampling better than
    constant ones.
    """

    formula: ClassVar[str] = "start + (end - start) t, t from 0 to 1"

    start: float = number(1.0, low=0)
    end: float = number(10.0, low=0)

    def at(self, step: Step, state: State) -> list[float]:
        return [self.start + (self.end - self.start) * step.progress] * state.batch

    def __str__(self) -> str:
        return f"linear from {self.start:g} to {self.end:g}"
