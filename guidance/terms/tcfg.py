"""Tangential damping of the unconditional prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine.guider import Term
from ..engine.predictions import Prediction, Query
from ..engine.reference import Negative, Reference
from ..engine.state import Rows
from ..engine.vectors import dot, expand, working


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
        self, q: Query, positive: Prediction, reference: Prediction, scale: Tensor, state: Rows
    ) -> Tensor:
        c, u = working(positive.output), reference.output_as(positive.readout)
        cross = dot(c, u)
        gram = torch.stack([dot(c, c), cross, cross, dot(u, u)], dim=-1).view(-1, 2, 2)
        values, vectors = torch.linalg.eigh(gram)  # ascending; v = (a c + b u) / sqrt(value)
        a, b = vectors[:, 0, 1], vectors[:, 1, 1]
        largest = values[:, 1].clamp_min(torch.finfo(values.dtype).tiny)
        share = (a * cross + b * gram[:, 1, 1]) / largest
        damped = expand(share * a, c) * c + expand(share * b, u) * u
        return positive.readout.gain * (scale - 1) * (c - damped)
