"""Classifier guidance, by a classifier of noisy images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine.config import reject
from ..engine.guider import Gradient
from ..engine.levels import Step
from ..engine.predictions import Prediction, Query
from ..engine.scale import ScaleLike
from ..engine.state import Rows
from ..engine.tensors import differentiable, leaf_of, upcast
from ..engine.vectors import Number, Vector
from .scores import checked, in_x0

LogProb = Callable[[Tensor, Step, Sequence[Any]], Tensor]


@dataclass(frozen=True)
class ClassifierGuidance(Gradient):
    """Classifier guidance by a classifier of noisy images: ``eps - scale * sigma * grad_x log p``.

    Dhariwal & Nichol 2021 (arXiv:2105.05233, algorithm 2, the DDIM form), as a change of the clean
    image: ``x0 = D + sigma^2 / alpha * scale * grad_x log p(y | x)`` with x as the network sees it,
    where ``sigma / alpha`` counts as at most 100: it is infinite where a flow begins.
    The network is not differentiated, only the classifier.

    Attributes:
        scale: s; 0 is no guidance.
        log_prob: a function ``(x, step, prompts) -> (B,)``: latents (B, ...) at the noise level
            ``step.level``, and what each image is asked to be, to the log-probability of that.
    """

    formula: ClassVar[str] = "D + s sigma min(sigma / alpha, 100) grad_x log p(y | x)"
    works_on: ClassVar[str] = "x"

    scale: ScaleLike = 1.0
    log_prob: LogProb | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.log_prob):
            raise reject(self, "log_prob", self.log_prob, "a function of (x, step, prompts)")

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        assert self.log_prob is not None
        with differentiable():
            x = leaf_of(upcast(q.x))
            value = checked(self, self.log_prob(x, q.step, state.prompts), len(x))
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return scale * Vector.of(in_x0(q, gradient))

    def to_dict(self) -> Any:
        raise ValueError("ClassifierGuidance: its log_prob is a function, not stored as JSON")

    def __str__(self) -> str:
        return f"ClassifierGuidance scale {self.scale}"
