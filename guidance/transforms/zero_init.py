"""Zero-init: do not move at the first steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..engine.config import number, reject
from ..engine.guider import Prepare
from ..engine.levels import Step


@dataclass(frozen=True)
class ZeroInit(Prepare):
    """A velocity of zero at the first steps: ``CFGZeroStar(5) | ZeroInit()``.

    The second half of CFG-Zero* (arXiv:2503.18886), for flow matching: where the network is least
    sure, the sample stays where it is. Nothing is evaluated at these steps.

    Attributes:
        steps: how many solver steps; the paper's is 1, or 4 % of them.
    """

    formula: ClassVar[str] = "a velocity of 0 at the first steps"
    works_on: ClassVar[str] = "output"

    steps: float = number(1.0, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps != int(self.steps):
            raise reject(self, "steps", self.steps, "a whole number of at least 0")

    def blank(self, step: Step, number: int) -> bool:
        if number >= self.steps:
            return False
        # Of a variance-preserving model the level of pure noise alone looks like that of a flow.
        for level in filter(None, (step.level, step.next_level)):
            if abs(level.alpha + level.std - 1) > 1e-4:
                raise ValueError(
                    f"ZeroInit: at step {step.index} there is a level with an alpha of "
                    f"{level.alpha:.4g} and a std of {level.std:.4g}; allowed are flows, where "
                    "they add up to 1: an output of zero means something else elsewhere"
                )
        return True
