"""How far two predictions agree: their cosine, and from where on it counts as agreement."""

from __future__ import annotations

import torch

from .predictions import Prediction, Query
from .vectors import Numbers, cosine

NO_SIGNAL = 1e3  # of sigma / alpha


THRESHOLDS = {"x0": 0.999, "eps": 0.991, "output": 0.991}


def agreement(q: Query, a: Prediction, b: Prediction, space: str) -> Numbers:
    """The cosine of two predictions (B, ...) for each image.

    Where x holds no signal every eps is x, and nothing is known of their agreement: nan.
    """
    if space == "eps" and q.step.sigma > NO_SIGNAL:
        return Numbers(torch.full((len(q.x),), torch.nan, device=q.x.device))
    b = b if b.origin is a else b.relative_to(a)
    if space == "eps":
        return cosine(a.eps(q.step.level), b.eps(q.step.level))
    return cosine(a.x0, b.x0) if space == "x0" else cosine(a.vector, b.vector)
