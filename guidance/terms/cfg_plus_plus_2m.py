"""CFG++ for DPM-Solver++ 2M, as a term with memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..engine.config import choice
from ..engine.guider import Term
from ..engine.predictions import Prediction, Query
from ..engine.reference import Negative, Reference
from ..engine.state import Rows
from ..engine.vectors import Number, Numbers, Vector


@dataclass(frozen=True)
class CFGPlusPlus2M(Term):
    """CFG++ with the solver DPM-Solver++ 2M: noise is put back by the unconditional prediction.

    Chung et al. 2024 (arXiv:2406.08070, ICLR 2025), with ``D = D_u + scale (D_c - D_u)``,
    ``q = sigma'/sigma = exp(-h)`` and ``r = h_before / h``::

        x' = D + q (x - D_u) + (1 - q) (X - D_u_before) / (2 r)

    A first-order step ``q x + (1 - q) D~`` is the same for
    ``D~ = D_u + scale / (1 - q) (D_c - D_u) + (X - D_u_before) / (2 r)``. So this term makes
    ``D~``, and the scheduler has to be deterministic and of **first order**: DDIM, Euler, or
    DPM-Solver++ with ``solver_order=1``; one of second order would correct twice. As in 2M the
    first step has no correction, nor a last one that leads to the clean image.

    Attributes:
        scale: the paper's lambda, from 0 to 1; 0.6 is typical.
        correction: X, "unconditional" for D_u, as in the authors' SDXL code, or "guided" for D, as
            in their SD code. The first is the difference of one function between two levels, which
            is what the second order is made of; the other adds a share of guidance with it.
    """

    formula: ClassVar[str] = (
        "D_u + w / (1 - q) (D_c - D_u) + (X - X_before) / (2 r), q = sigma' / sigma"
    )
    works_on: ClassVar[str] = "any"

    first_order: ClassVar[bool] = True

    scale: Any = 0.6
    correction: str = choice("unconditional", "unconditional", "guided")
    reference: Reference = Negative()
    off: ClassVar[float] = -1.0  # no scale: at each of them both predictions are needed

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        gap, u = positive - reference, reference.x0
        sigma, after = q.step.sigma, q.step.next_sigma
        share = after / sigma if math.isfinite(sigma) else 0.0
        change = (scale / (1 - share) - 1) * gap
        nowhere = Numbers(torch.zeros(len(q.x), dtype=torch.float64, device=q.x.device))
        before = state.get("sigma", nowhere)
        if share and state.has("sigma"):
            ratio = (before / sigma).log() / math.log(1 / share)  # r; infinite after pure noise
            weight = (1 / (2 * ratio)).where(before > 0, 0.0)
            now = u + scale * gap if self.correction == "guided" else u
            change = change + weight * (now - state.get("u", u))
        state.set("sigma", nowhere + sigma)
        state.set("u", u)
        return change
