"""What universal guidance and MPGD share: the reward, what it sees, and the size of the change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..engine.config import choice, number, reject
from ..engine.guider import Gradient
from ..engine.predictions import Prediction, Query
from ..engine.scale import ScaleLike
from ..engine.state import Rows
from ..engine.tensors import differentiable
from ..engine.vectors import TINY, Number, Vector, norm
from .scores import checked

Reward = Callable[[Tensor, Sequence[Any]], Tensor]


@dataclass(frozen=True)
class RewardGuidance(Gradient, ABC):
    """Base of the terms that climb any differentiable score of the clean image.

    Subclasses say how the score's gradient changes x0, and whether the network is differentiated
    for it. The gradient is a constant to whoever differentiates through the run.

    With ``low`` and ``high`` the change is given the size of what the other terms do, times the
    ratio of the two sizes clipped to that range: Guide-and-Rescale (arXiv:2409.01322), which uses
    0.33 and 3. There sizes are those of noise predictions and of ``w (D_c - D_u)``, here those of
    changes of x0. Where the other terms do nothing, neither does this one then.

    Attributes:
        scale: s; 0 is no guidance.
        reward: a function ``(pictures, prompts) -> (B,)`` of pictures (B, 3, H, W) in [0, 1] and
            what each image is asked to be; or the name of one, such as "clip+0.1*brightness", or
            "module:function", which is read from JSON with ``functions=True`` only.
        space: what it sees, "pictures", or "latents" for x0 itself.
        low, high: bounds of the ratio to the norm of the other terms' change; None is as it comes.
    """

    scale: ScaleLike = 1.0
    reward: Reward | str | None = None
    space: str = choice("pictures", "pictures", "latents")
    low: float | None = number(None, low=0, optional=True)
    high: float | None = number(None, low=0, optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.reward) and not (self.reward and isinstance(self.reward, str)):
            raise reject(self, "reward", self.reward, "a function, or the name of a reward")
        if (self.low is None) != (self.high is None) or (self.high or 0) < (self.low or 0):
            raise reject(self, "high", self.high, f"at least low (= {self.low}), or both None")

    @classmethod
    def runs_code(cls, settings: dict[str, Any]) -> bool:
        return ":" in str(settings.get("reward", ""))

    @abstractmethod
    def change(self, query: Query, x0: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """The change (B, ...) of the clean image at a scale of 1.

        Args:
            query: the latents and the step.
            x0: the positive prediction (B, ...).
            score: the reward (B,) of any clean images (B, ...).
        """

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        reward, prompts = self._reward(state), state.prompts

        def score(x0: Tensor) -> Tensor:
            seen = x0 if self.space == "latents" else state.context.decode(x0) / 2 + 0.5
            return checked(self, reward(seen, prompts), len(x0))

        with differentiable():
            change = self.change(q, positive.x0.tensor(), score)
        if self.low is None or self.high is None:
            return scale * Vector.of(change)
        theirs, ours = norm((reference - positive).tensor().detach()), norm(change)
        ratio = (ours / theirs).clamp(self.low, self.high)
        factor = (ratio * theirs / ours).where(ours > TINY, 0.0)
        return scale * factor * Vector.of(change)

    def _reward(self, state: Rows) -> Reward:
        if not isinstance(self.reward, str):
            assert self.reward is not None
            return self.reward
        if None in state.prompts:
            raise ValueError(
                f"{type(self).__name__}: reward is {self.reward!r} and an image's prompt is not "
                "known; allowed is a call with the prompt as text"
            )
        return state.context.reward(self.reward)

    def to_dict(self) -> Any:
        if not isinstance(self.reward, str):
            owner, name = type(self).__name__, type(self.reward).__name__
            raise ValueError(f"{owner}: a reward ({name}) is not stored as JSON; name one")
        return super().to_dict()

    def __str__(self) -> str:
        name = self.reward if isinstance(self.reward, str) else getattr(
            self.reward, "__name__", type(self.reward).__name__
        )  # fmt: skip
        return f"{type(self).__name__} scale {self.scale}, {name}"
