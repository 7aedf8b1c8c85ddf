"""Tangential damping of the unconditional prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.guider import Term
from ..engine.predictions import Prediction, Query
from ..engine.reference import Negative, Reference
from ..engine.state import Rows
from ..engine.vectors import Number, Vector, dot


@dataclass(frozen=True)
class TCFG(Term):
    """Tangential damping: ``u' + scale * (c - u')``, u' the part of u along what c and u share.

    TCFG (arXiv:2503.18137, CVPR 2025): ``u' = <u, v> v``, where v is the first right
    singular vector of the two rows (c, u) of each image, on the network's output.
    """

    formula: ClassVar[str] = "u' + w (c - u'), u' = <u, v> v, v the main direction of c and u"
    works_on: ClassVar[str] = "output"

    scale: Any = 7.5
    reference: Reference = Negative()

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        c, u = positive.vector, reference.vector
        # With v the eigenvector a c + b u of the larger eigenvalue of [[<c, c>, <c, u>],
        # [<c, u>, <u, u>]], <u, v> v is a b c + b b u.
        half, cross = dot(c - u, c + u) / 2, dot(c, u)
        root = (half * half + cross * cross).sqrt()
        ab, bb = cross / root / 2, (1 - half / root) / 2
        return positive.readout.gain * (scale - 1) * (c - ab * c - bb * u)
