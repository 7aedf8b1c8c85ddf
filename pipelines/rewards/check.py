"""Does a reward work? Asked before anything is trained with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Reward = Callable[[Tensor, Sequence[str]], Tensor]
"""``reward(images, prompts)``: images (B, 3, H, W) in [0, 1], B prompts, to (B,) scores."""


def check_reward(reward: Reward, images: Tensor, prompts: Sequence[str]) -> None:
    """Call a reward once and look at what it answers.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: a wrong type or shape, a value or gradient that is not finite, no gradient.
    """
    who = f"reward {getattr(reward, '__name__', type(reward).__name__)}"
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        try:
            scores = reward(images, list(prompts))
        except TypeError as error:
            raise ValueError(
                f"{who} cannot be called as reward(images, prompts): {error}; allowed is a "
                "function of both"
            ) from None
    what = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if what != (len(images),):
        raise ValueError(
            f"{who} gives {what} for {len(images)} images; allowed is a tensor ({len(images)},)"
        )
    if not torch.isfinite(scores).all():
        raise ValueError(f"{who} gives {scores.tolist()}; allowed are finite numbers")
    gradient = None
    if scores.requires_grad:
        (gradient,) = torch.autograd.grad(scores.sum(), images, allow_unused=True)
    if gradient is None or not gradient.any():
        raise ValueError(
            f"{who} has no gradient with respect to the images; allowed is a differentiable "
            "reward, in torch throughout and without no_grad"
        )
    if not torch.isfinite(gradient).all():
        raise ValueError(f"{who} has a gradient that is not finite; allowed is a finite one")
