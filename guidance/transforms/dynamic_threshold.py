"""Dynamic thresholding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..engine.config import number
from ..engine.guider import Post
from ..engine.predictions import Prediction, Query
from ..engine.state import Rows
from ..engine.tensors import append_dims
from ..engine.vectors import Vector


@dataclass(frozen=True)
class DynamicThreshold(Post):
    """Dynamic thresholding: clip each guided image at a quantile of its own size, and shrink it.

    Imagen (arXiv:2205.11487, section 2.3): ``s = max(limit, quantile of |x0|)``, then
    ``x0 -> clip(x0, -s, s) / s``, here times ``limit``. It was made for pixels in [-1, 1]; latents
    have another range, for which ``limit`` has to be chosen. The text of the paper was not at hand:
    the quantile is from memory.

    Attributes:
        quantile: of the absolute values of one image.
        limit: the range of a clean image is [-limit, limit].
    """

    formula: ClassVar[str] = "clip(D, -s, s) limit / s, s = max(limit, quantile of |D|)"
    works_on: ClassVar[str] = "x0"

    quantile: float = number(0.995, low=0, high=1)
    limit: float = number(1.0, low=0, open_ends=True)

    def __call__(self, q: Query, positive: Prediction, guided: Prediction, state: Rows) -> Vector:
        x0 = guided.x0.tensor()
        size = x0.abs().flatten(1).quantile(self.quantile, dim=1).clamp_min(self.limit)
        bound = append_dims(size, x0)
        clean = x0.clamp(-bound, bound) * (self.limit / bound)
        return guided.vector + (clean - x0) / guided.readout.gain
