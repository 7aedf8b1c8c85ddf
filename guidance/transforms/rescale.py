"""Guidance rescale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..engine.config import number
from ..engine.guider import Post
from ..engine.predictions import Prediction, Query
from ..engine.state import Rows
from ..engine.vectors import Vector, spread


@dataclass(frozen=True)
class Rescale(Post):
    """Give the guided output back the spread of the conditional one: ``CFG(7.5) | Rescale(0.7)``.

    Lin et al. 2023 (arXiv:2305.08891), section 3.4, on the network's output g as in Diffusers:
    ``phi * g * std(c) / std(g) + (1 - phi) * g`` with the standard deviation over each image. The
    paper recommends 0.7, for v-prediction models of zero terminal signal-to-noise ratio.
    """

    formula: ClassVar[str] = "phi g std(c) / std(g) + (1 - phi) g"
    works_on: ClassVar[str] = "output"

    phi: float = number(0.7, low=0, high=1)

    def __call__(self, q: Query, positive: Prediction, guided: Prediction, state: Rows) -> Vector:
        c, g = spread(positive.vector), spread(guided.vector)
        ratio = (c / g).where(g > 0, 1.0)  # a constant has no spread to give back
        return guided.vector * (self.phi * ratio + (1 - self.phi))
