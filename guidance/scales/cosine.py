"""A guidance scale that changes along half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..engine.config import number
from ..engine.levels import Step
from ..engine.scale import Scale
from ..engine.state import State


@dataclass(frozen=True)
class Cosine(Scale):
    """From ``start`` to ``end`` along half a cosine: slow at both ends (arXiv:2404.13040)."""

    formula: ClassVar[str] = "start + (end - start) (1 - cos(pi t)) / 2"

    start: float = number(1.0, low=0)
    end: float = number(10.0, low=0)

    def at(self, step: Step, state: State) -> list[float]:
        share = (1 - math.cos(math.pi * step.progress)) / 2
        return [self.start + (self.end - self.start) * share] * state.batch

    def __str__(self) -> str:
        return f"cosine from {self.start:g} to {self.end:g}"
