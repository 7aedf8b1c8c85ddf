"""Condition-annealed sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..engine.config import number, reject
from ..engine.guider import Prepare
from ..engine.levels import Step


@dataclass(frozen=True)
class CADS(Prepare):
    """CADS: noise on the prompt's embedding while the picture is still noise, for diversity.

    Sadat et al. (arXiv:2310.17347): ``y' = sqrt(g) y + noise_scale * sqrt(1 - g) n`` with unit
    normal n, then back to the mean and spread of y. g is 0 above the time ``high``, 1 below ``low``
    and linear between, time going from 1 at the first evaluation to 0 at the last. The text of the
    paper was not at hand: formula and defaults are from memory.

    Attributes:
        low, high: tau_1 and tau_2.
        noise_scale: s.
        rescale: psi, how far mean and spread are restored.
    """

    formula: ClassVar[str] = "y -> sqrt(g) y + s sqrt(1 - g) n, back to its mean and spread"
    works_on: ClassVar[str] = "prompt"

    low: float = number(0.6, low=0, high=1)
    high: float = number(0.9, low=0, high=1)
    noise_scale: float = number(0.1, low=0)
    rescale: float = number(1.0, low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high < self.low:
            raise reject(self, "high", self.high, f"a number of at least low (= {self.low:g})")

    def tell(self, step: Step, embedding: Tensor, noise: Tensor) -> Tensor:
        time = 1 - step.progress
        if time <= self.low:
            return embedding
        share = 0.0 if time >= self.high else (self.high - time) / (self.high - self.low)
        mixed = math.sqrt(share) * embedding + self.noise_scale * math.sqrt(1 - share) * noise
        dims = tuple(range(1, embedding.dim()))
        mean, std = (f(mixed, dim=dims, keepdim=True) for f in (Tensor.mean, Tensor.std))
        kept = (mixed - mean) / std.clamp_min(1e-12) * embedding.std(dim=dims, keepdim=True)
        kept = kept + embedding.mean(dim=dims, keepdim=True)
        return self.rescale * kept + (1 - self.rescale) * mixed
