"""EP-CFG: the energy of the conditional prediction is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..engine.config import number, reject
from ..engine.guider import Post
from ..engine.predictions import Prediction, Query
from ..engine.state import Rows
from ..engine.tensors import on_device, wide
from ..engine.vectors import TINY, Numbers, Vector, dot


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

    def __call__(self, q: Query, positive: Prediction, guided: Prediction, state: Rows) -> Vector:
        ratio = (self._energy(positive.x0) / self._energy(guided.x0).clamp(low=TINY)).sqrt()
        return guided.vector + (ratio - 1) * guided.x0 / guided.readout.gain

    def _energy(self, x0: Vector) -> Numbers:
        if (self.low, self.high) == (0, 100):
            return dot(x0, x0)
        squares = x0.tensor().square().flatten(1)
        ends = on_device((self.low / 100, self.high / 100), squares.dtype, squares.device)
        low, high = squares.quantile(ends, dim=1).unsqueeze(2)
        kept = torch.where((squares >= low) & (squares <= high), squares, 0)
        return Numbers(wide(kept.sum(dim=1)))
