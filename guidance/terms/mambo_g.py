"""Magnitude-aware guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.config import number
from ..engine.guider import Term
from ..engine.predictions import Prediction, Query
from ..engine.reference import Negative, Reference
from ..engine.state import Rows
from ..engine.vectors import Number, Vector, norm


@dataclass(frozen=True)
class MagnitudeAware(Term):
    """CFG with the scale damped where the two predictions differ much, as they do at the start.

    MAMBO-G (arXiv:2508.03442): the scale is ``1 + (scale - 1) * exp(-alpha * |c - u| / |u|)`` with
    the norms of each image on the network's output.

    Attributes:
        alpha: how quickly it is damped; the paper's choice is 8.
    """

    formula: ClassVar[str] = "u + w' (c - u), w' = 1 + (w - 1) exp(-alpha |c - u| / |u|)"
    works_on: ClassVar[str] = "output"

    scale: Any = 10.0
    alpha: float = number(8.0, low=0)
    reference: Reference = Negative()

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        c, u = positive.vector, reference.vector
        damping = (-self.alpha * (norm(c - u) / norm(u))).exp()
        return (scale - 1) * damping * (positive - reference)
