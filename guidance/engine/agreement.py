"""How far two predictions agree: their cosine, and from where on it counts as agreement."""

from __future__ import annotations

import torch
from torch import Tensor

from .predictions import Prediction, Query
from .vectors import cosine

NO_SIGNAL = 1e3  # of sigma / alpha


THRESHOLDS = {"x0": 0.999, "eps": 0.991, "output": 0.991}


def agreement(q: Query, a: Prediction, b: Prediction, space: str) -> Tensor:
    """The cosine of two predictions (B, ...) for each image, (B,).

    Where x holds no signal every eps is x, and nothing is known of their agreement: nan.
    """
    if space == "eps" and q.step.sigma > NO_SIGNAL:
        return torch.full((len(q.x),), torch.nan, device=q.x.device)
    if space == "eps":
        return cosine(a.eps(q.step.level), b.eps(q.step.level))
    return cosine(a.x0, b.x0) if space == "x0" else cosine(a.output, b.output_as(a.readout))
