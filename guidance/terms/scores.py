"""What gradient terms share: a score that can be followed, and what its gradient means in x0."""

from __future__ import annotations

from torch import Tensor

from ..engine.predictions import Query

LARGEST = 100.0  # of sigma / alpha, in sigma^2 / alpha: flows begin at an alpha of 0 or nearly so


def checked(owner: object, value: object, images: int) -> Tensor:
    """A score that can be followed: a number for each image, finite, with a gradient.

    Args:
        owner: the term, which is named in complaints.
        value: what its score function returned.
        images: how many there are.

    Returns:
        The value, (images,).

    Raises:
        ValueError: it cannot be followed.
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


def in_x0(query: Query, gradient: Tensor) -> Tensor:
    """The change of x0 that a gradient by x means, ``sigma * min(sigma / alpha, 100)`` times it.

    The score of a log-probability at x is ``grad_x log p``, and ``x0 = (x + sigma^2 score) /
    alpha`` (Tweedie) for x as the network sees it.
    """
    return gradient * (query.step.level.std * min(query.step.sigma, LARGEST))
