"""Step AG: guide the first part of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.config import number
from ..engine.levels import Step
from ..engine.scale import Gate
from ..engine.state import State


@dataclass(frozen=True)
class StepAG(Gate):
    """Guide only the first part of the run, and then take the conditional prediction alone.

    "Step AG", arXiv:2506.08351 (abstract): no threshold to tune, for image and video models.

    Attributes:
        scale: the scale in that part.
        share: of the run's evaluations, rounded to whole ones.
    """

    formula: ClassVar[str] = "w for the first share of the steps, then 1"

    scale: Any = 7.5
    share: float = number(0.5, low=0, high=1)

    def at(self, step: Step, state: State) -> list[float]:
        first = step.index < round(self.share * step.total)
        return self.scale.at(step, state) if first else [state.off] * state.batch

    def __str__(self) -> str:
        return f"{self.scale} for the first {100 * self.share:g} %"
