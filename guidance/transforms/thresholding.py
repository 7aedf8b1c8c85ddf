"""What keeps the guided image within bounds: dynamic thresholding and energy preservation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..engine.config import number, reject
from ..engine.guider import Post
from ..engine.types import Prediction, Query, dot, expand, wide, working


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

    def __call__(self, q: Query, positive: Prediction, guided: Prediction) -> Tensor:
        x0 = guided.x0
        size = x0.abs().flatten(1).quantile(self.quantile, dim=1).clamp_min(self.limit)
        bound = expand(size, x0)
        return _with_x0(guided, x0.clamp(-bound, bound) * (self.limit / bound))


@dataclass(frozen=True)
class EnergyPreserving(Post):
    """EP-CFG: the guided image gets the energy of the conditional one.

    arXiv:2412.09966: ``x0 -> x0 * sqrt(E_c / E)``, E the sum of squares of an image's elements. The
    robust form takes only elements whose square lies between two percentiles, 45 and 55 there. The
    text of the paper was not at hand: the formula is a third party's.

    Attributes:
        low, high: percentiles, in per cent; all elements by default.
    """

    formula: ClassVar[str] = "D sqrt(E_c / E)"
    works_on: ClassVar[str] = "x0"

    low: float = number(0.0, low=0, high=100)
    high: float = number(100.0, low=0, high=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high <= self.low:
            raise reject(self, "high", self.high, f"a percentile above low (= {self.low:g})")

    def __call__(self, q: Query, positive: Prediction, guided: Prediction) -> Tensor:
        x0 = guided.x0
        have = self._energy(x0)
        ratio = self._energy(positive.x0) / have.clamp_min(torch.finfo(have.dtype).tiny)
        return _with_x0(guided, x0 * expand(ratio.sqrt(), x0))

    def _energy(self, x0: Tensor) -> Tensor:
        if (self.low, self.high) == (0, 100):
            return dot(x0, x0)
        squares = wide(x0).square().flatten(1)
        ends = torch.tensor([self.low, self.high], dtype=squares.dtype, device=x0.device) / 100
        low, high = squares.quantile(ends, dim=1).unsqueeze(2)
        return torch.where((squares >= low) & (squares <= high), squares, 0).sum(dim=1)


def _with_x0(prediction: Prediction, x0: Tensor) -> Tensor:
    """The output (B, ...) that means this clean image."""
    return working(prediction.output) + (x0 - prediction.x0) / prediction.readout.gain
