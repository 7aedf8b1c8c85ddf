"""Learn how an unknown pipeline combines its two branches, from what it gives to the scheduler."""

from __future__ import annotations

import torch
from torch import Tensor

from ..patch.call_arguments import crop


def tolerance(dtype: torch.dtype) -> float:
    """How far, relatively, rounding alone may take a tensor of this type."""
    return {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-3}.get(dtype, 1e-2)


def error(a: Tensor, b: Tensor) -> Tensor:
    """``|a - b| / |b|``; infinite for different shapes."""
    if a.shape != b.shape:
        return torch.tensor(torch.inf)
    a, b = a.detach().float(), b.detach().float()
    return (a - b).norm() / b.norm().clamp_min(1e-30)


def combination(combined: Tensor, first: Tensor, second: Tensor) -> tuple[int, bool] | None:
    """How ``sign * combined = first + w * (second - first)`` guides.

    Guidance extrapolates from the negative branch through the positive one: w above 1 means that
    the second is the positive one, below 0 that the first is.

    Returns:
        The sign and whether the first one is positive; ``None`` where it is no such combination.
    """
    allowed = 5 * tolerance(first.dtype)  # the weight multiplies what the network rounded
    first, second = (crop(value, combined.shape[1:]).float() for value in (first, second))
    if not first.shape == second.shape == combined.shape:
        return None
    gap = second - first
    for sign in (1, -1):
        rest = sign * combined.float() - first
        weight = ((rest * gap).sum() / gap.square().sum().clamp_min(1e-30)).item()
        if not 0 <= weight <= 1 and error(first + weight * gap, sign * combined) <= allowed:
            return sign, weight < 0
    return None


def sign_of(combined: Tensor, output: Tensor) -> int | None:
    """1 or -1 if ``combined`` is the output or its negation, over the part both have."""
    part = crop(output, combined.shape[1:])
    allowed = tolerance(output.dtype)
    return next((sign for sign in (1, -1) if error(sign * combined, part) <= allowed), None)
