"""CFG++ as a schedule of CFG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..engine.config import number
from ..engine.levels import Step
from ..engine.scale import Scale
from ..engine.state import State


@dataclass(frozen=True)
class CFGPlusPlus(Scale):
    """CFG++ for first-order solvers: ``CFG(CFGPlusPlus(0.6))`` under DDIM (eta 0) or Euler.

    Chung et al. 2024 (arXiv:2406.08070, ICLR 2025) step from ``D_u + lam * (D_c - D_u)`` with the
    noise of ``D_u``. For a solver of first order that is CFG with the scale
    ``w = lam * sigma / (sigma - sigma_next)`` in EDM's sigma. Solvers of second order need another
    update; there this schedule is something else, and ``CFGPlusPlus2M`` is meant.

    Attributes:
        lam: the paper's lambda, in [0, 1]; 0.6 is typical, about 7.5 to 12.5 of CFG.
    """

    formula: ClassVar[str] = "lam sigma / (sigma - sigma_next)"

    first_order: ClassVar[bool] = True

    lam: float = number(0.6, low=0, high=1)

    def at(self, step: Step, state: State) -> list[float]:
        ratio = step.next_sigma / step.sigma if step.sigma else 0.0
        return [self.lam / (1 - ratio) if ratio < 1 else state.off] * state.batch

    def __str__(self) -> str:
        return f"CFG++ {self.lam:g}"
