"""The guidance interval: guide between two noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..engine.config import number, reject
from ..engine.levels import Step
from ..engine.scale import Gate
from ..engine.state import State


@dataclass(frozen=True)
class Interval(Gate):
    """Guide only where ``low < sigma <= high``; elsewhere the reference is not evaluated.

    Kynkaanniemi et al. 2024 (arXiv:2404.07724, section 3). sigma is in EDM's unit
    (``sigma / alpha``), which is the same for every model; published bounds are rounded to three
    digits, so take them a little wider than printed. Solvers of second order keep the decision of
    the step's first evaluation.

    Attributes:
        scale: the scale inside.
        low, high: bounds of sigma; ``high=None`` is no bound. The paper's best for SDXL is
            (0.28, 5.42], for EDM2-XXL at 512 px (0.19, 1.61].
        keep: instead of bounds, the share of guidance's effect on the picture that is to be kept:
            a profile of the model says which is the smallest interval that does.
    """

    formula: ClassVar[str] = "w if low < sigma <= high, else 1"

    scale: Any = 7.5
    low: float = number(0.0, low=0)
    high: float | None = number(None, low=0, optional=True)
    keep: float | None = number(None, low=0, high=1, open_ends=True, optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep is not None and (self.low or self.high is not None):
            raise reject(self, "keep", self.keep, "None beside low and high")
        if self.high is not None and self.high <= self.low:
            raise reject(self, "high", self.high, f"a number above low (= {self.low:g}) or None")
        inner = self.scale
        while isinstance(inner, Gate):
            if isinstance(inner, Interval):
                low, high = max(self.low, inner.low), min(map(_upper, (self, inner)))
                if low >= high:
                    allowed = f"an interval that overlaps with ({self.low:g}, {_upper(self):g}]"
                    raise reject(self, "scale", str(inner), allowed)
            inner = inner.scale

    def replace(self, **changes: Any) -> Self:
        """A copy with other settings; bounds and ``keep`` take each other's place."""
        if changes.get("keep") is not None:
            changes = {"low": 0.0, "high": None, **changes}
        elif changes.get("low") or changes.get("high") is not None:
            changes.setdefault("keep", None)
        return super().replace(**changes)

    @property
    def intent(self) -> str:
        return "" if self.keep is None else f"Interval keep={self.keep:g}"

    def at(self, step: Step, state: State) -> list[float]:
        inside = self.low < step.sigma and (self.high is None or step.sigma <= self.high)
        return self.scale.at(step, state) if inside else [state.off] * state.batch

    def __str__(self) -> str:
        if self.keep is not None:
            return f"{self.scale} where it has {100 * self.keep:g} % of its effect"
        return f"{self.scale} for sigma in ({self.low:g}, {_upper(self):g}]"


def _upper(interval: Interval) -> float:
    return math.inf if interval.high is None else interval.high
