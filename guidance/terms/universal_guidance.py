"""Universal guidance: a reward of the clean image, differentiated through the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..engine.predictions import Query
from .reward_guidance import RewardGuidance
from .scores import in_x0


@dataclass(frozen=True)
class UniversalGuidance(RewardGuidance):
    """Up the gradient of a reward by the noisy image, through the network.

    The forward part of universal guidance (Bansal et al. 2023, arXiv:2302.07121, equation 6), with
    a reward in place of its loss: ``x0 = D + sigma^2 / alpha * scale * grad_x r(D(x))``, where
    ``sigma / alpha`` counts as at most 100: it is infinite where a flow begins. The positive
    prediction is evaluated with gradients, which takes the memory of a backward pass; ``MPGD``
    does not. DPS and FreeDoM follow the same gradient with other weights.
    """

    formula: ClassVar[str] = "D + s sigma min(sigma / alpha, 100) grad_x r(D(x))"
    works_on: ClassVar[str] = "x0"

    @property
    def through_network(self) -> bool:
        return True

    def change(self, query: Query, x0: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        return in_x0(query, query.gradient(score(x0)))
