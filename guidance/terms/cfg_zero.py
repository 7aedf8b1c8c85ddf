"""CFG-Zero*, the optimised scale of the unconditional prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.guider import Term
from ..engine.predictions import Prediction, Query
from ..engine.reference import Negative, Reference
from ..engine.state import Rows
from ..engine.vectors import Number, Vector, project


@dataclass(frozen=True)
class CFGZeroStar(Term):
    """CFG-Zero*: ``s u + scale * (c - s u)`` with ``s = <c, u> / |u|^2`` of each image.

    arXiv:2503.18886, for flow matching, on the network's output (the velocity).
    The paper's zero-init, a first step of zero velocity, is not part of it.
    """

    formula: ClassVar[str] = "s u + w (c - s u), s = <c, u> / |u|^2"
    works_on: ClassVar[str] = "output"

    scale: Any = 7.5
    reference: Reference = Negative()

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        c, u = positive.vector, reference.vector
        return positive.readout.gain * (scale - 1) * (c - project(c, onto=u))
