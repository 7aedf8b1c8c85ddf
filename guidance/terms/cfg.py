"""Classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.guider import Term
from ..engine.predictions import Prediction, Query
from ..engine.reference import Negative, Reference
from ..engine.state import Rows
from ..engine.vectors import Number, Vector


@dataclass(frozen=True)
class CFG(Term):
    """Classifier-free guidance: ``x0 = D_c + (scale - 1) * (D_c - D_u)``.

    Ho & Salimans 2022 (arXiv:2207.12598), in the convention of Imagen and Stable Diffusion,
    ``u + scale * (c - u)``: scale 1 is no guidance. The paper's w is ``scale - 1``. A difference
    of two predictions means the same in every space.
    """

    formula: ClassVar[str] = "D_c + (w - 1) (D_c - D_u)"
    works_on: ClassVar[str] = "any"
    by_products: ClassVar[bool] = True

    scale: Any = 7.5
    reference: Reference = Negative()

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        return (scale - 1) * (positive - reference)
