"""Guidance by the gradient of a score: classifier guidance, rewards, universal guidance, MPGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine.config import choice, number, reject
from ..engine.guider import Gradient
from ..engine.predictions import Prediction, Query
from ..engine.state import Rows
from ..engine.tensors import differentiable, leaf_of, upcast
from ..engine.vectors import TINY, Number, Vector, norm

LARGEST = 100.0  # of sigma / alpha, in sigma^2 / alpha: flows begin at an alpha of 0 or nearly so


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

    scale: Any = 1.0
    log_prob: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.log_prob):
            raise reject(self, "log_prob", self.log_prob, "a function of (x, step, prompts)")

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        with differentiable():
            x = leaf_of(upcast(q.x))
            value = checked(self, self.log_prob(x, q.step, state.prompts), len(x))
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return scale * Vector.of(_in_x0(q, gradient))

    def to_dict(self) -> Any:
        raise ValueError("ClassifierGuidance: its log_prob is a function, not stored as JSON")

    def __str__(self) -> str:
        return f"ClassifierGuidance scale {self.scale}"


@dataclass(frozen=True)
class RewardGuidance(Gradient):
    """Up the gradient of any differentiable score of the clean image.

    Through the network it is the forward part of universal guidance (Bansal et al. 2023,
    arXiv:2302.07121, equation 6), with an off-the-shelf classifier's log-probability as reward:
    ``x0 = D + sigma^2 / alpha * scale * grad_x r(D(x))``, where ``sigma / alpha`` counts as at most
    100: it is infinite where a flow begins. Through x0 alone it is MPGD (He et al.
    2023, arXiv:2311.16424, algorithm 1): ``x0 = D + scale * grad_D r(D)``, with no backpropagation
    through the network.

    With ``low`` and ``high`` the change is given the size of what the other terms do, times their
    ratio clipped to that range: Guide-and-Rescale (arXiv:2408.12345), which uses 0.33 and 3. Where
    the other terms do nothing, neither does this one then.

    The gradient is a constant to whoever differentiates through the run.

    Attributes:
        scale: s; 0 is no guidance.
        reward: a function ``(pictures, prompts) -> (B,)`` of pictures (B, 3, H, W) in [0, 1] and
            what each image is asked to be; or the name of one, such as "emoji-clip+0.1*brightness",
            or "module:function", which is read from JSON with ``functions=True`` only.
        space: what it sees, "pictures", or "latents" for x0 itself.
        through: "network" or "x0".
        low, high: bounds of the ratio to the norm of the other terms' change; None is as it comes.
    """

    formula: ClassVar[str] = (
        "D + s sigma min(sigma / alpha, 100) grad_x r(D(x)), or D + s grad_D r(D)"
    )
    works_on: ClassVar[str] = "x0"

    scale: Any = 1.0
    reward: Any = "emoji-clip"
    space: str = choice("pictures", "pictures", "latents")
    through: str = choice("network", "network", "x0")
    low: float | None = number(None, low=0, optional=True)
    high: float | None = number(None, low=0, optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.reward) and not isinstance(self.reward, str):
            raise reject(self, "reward", self.reward, "a function, or the name of a reward")
        if (self.low is None) != (self.high is None) or (self.high or 0) < (self.low or 0):
            raise reject(self, "high", self.high, f"at least low (= {self.low}), or both None")

    @classmethod
    def runs_code(cls, settings: dict[str, Any]) -> bool:
        return ":" in str(settings.get("reward", ""))

    @property
    def through_network(self) -> bool:
        return self.through == "network"

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        reward, prompts = self.reward, state.prompts
        if isinstance(reward, str):
            reward = state.context.reward(reward)
            if None in prompts:
                raise ValueError(
                    f"RewardGuidance: reward is {self.reward!r} and an image's prompt is not "
                    "known; allowed is a call with the prompt as text"
                )
        with differentiable():
            x0 = positive.x0.tensor()
            x0 = x0 if self.through_network else leaf_of(x0)
            seen = x0 if self.space == "latents" else state.context.decode(x0) / 2 + 0.5
            value = checked(self, reward(seen, prompts), len(x0))
            if self.through_network:
                change = _in_x0(q, q.gradient(value))
            else:
                (change,) = torch.autograd.grad(value.sum(), x0)
        if self.low is None or self.high is None:
            return scale * Vector.of(change)
        theirs, ours = norm((reference - positive).tensor().detach()), norm(change)
        ratio = (ours / theirs).clamp(self.low, self.high)
        factor = (ratio * theirs / ours).where(ours > TINY, 0.0)
        return scale * factor * Vector.of(change)

    def to_dict(self) -> Any:
        if not isinstance(self.reward, str):
            name = type(self.reward).__name__
            raise ValueError(f"RewardGuidance: a reward ({name}) is not stored as JSON; name one")
        return super().to_dict()

    def __str__(self) -> str:
        name = self.reward if isinstance(self.reward, str) else getattr(
            self.reward, "__name__", type(self.reward).__name__
        )  # fmt: skip
        return f"RewardGuidance scale {self.scale}, {name} through {self.through}"


def checked(owner: object, value: Any, images: int) -> Tensor:
    """A score that can be followed: a number for each image, finite, with a gradient.

    Raises:
        ValueError: it is not.
    """
    name = type(owner).__name__
    if not isinstance(value, Tensor) or value.shape != (images,):
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: the score is {what}; allowed is a tensor of shape ({images},)")
    if not value.requires_grad:
        raise ValueError(f"{name}: the score has no gradient; allowed is one without no_grad in it")
    if not value.detach().isfinite().all():
        raise ValueError(f"{name}: the score is {value.tolist()}; allowed are finite numbers")
    return value


def _in_x0(q: Query, gradient: Tensor) -> Tensor:
    """The change of x0 that a gradient by x means, ``sigma * min(sigma / alpha, 100)`` times it."""
    return gradient * (q.step.level.std * min(q.step.sigma, LARGEST))
