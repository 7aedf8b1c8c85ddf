"""MPGD: a reward of the clean image, without backpropagation through the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..engine.predictions import Query
from ..engine.tensors import leaf_of
from .reward_guidance import RewardGuidance


@dataclass(frozen=True)
class MPGD(RewardGuidance):
    """Up the gradient of a reward by the clean image itself: manifold-preserving guided diffusion.

    He et al. 2023 (arXiv:2311.16424, algorithm 1, without its optional projection):
    ``x0 = D + scale * grad_D r(D)``. The network is not differentiated, so a step costs what it
    costs without, and the reward's own gradient.
    """

    formula: ClassVar[str] = "D + s grad_D r(D)"
    works_on: ClassVar[str] = "x0"

    def change(self, query: Query, x0: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = leaf_of(x0)
        (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
        return gradient
