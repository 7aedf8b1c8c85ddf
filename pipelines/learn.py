"""Learn how an unknown pipeline combines its two branches, from what it gives to the scheduler."""

from __future__ import annotations

from torch import Tensor

from .inputs import crop

TOLERANCE = {"torch.float64": 1e-6, "torch.float32": 1e-3}  # relative; 5e-2 in half precision


def close(a: Tensor, b: Tensor) -> bool:
    """Are two tensors the same but for rounding?"""
    return error(a, b) <= TOLERANCE.get(str(a.dtype), 5e-2)


def error(a: Tensor, b: Tensor) -> float:
    """``|a - b| / |b|``."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


def same(combined: Tensor, output: Tensor) -> int | None:
    """1 or -1 if ``combined`` is the output or its negation, over the part both have."""
    part = crop(output, combined.shape[1:])
    if part.shape == combined.shape:
        for sign in (1, -1):
            if close(sign * combined, part):
                return sign
    return None


def combination(combined: Tensor, first: Tensor, second: Tensor) -> tuple[int, bool] | None:
    """How ``sign * combined = first + w * (second - first)`` guides.

    Guidance extrapolates from the negative branch through the positive one: w above 1 means that
    the second is the positive one, below 0 that the first is.

    Returns:
        The sign and whether the first one is positive; ``None`` where it is no such combination.
    """
    first, second = (crop(value, combined.shape[1:]) for value in (first, second))
    if first.shape != combined.shape:
        return None
    gap = (second - first).double()
    for sign in (1, -1):
        rest = (sign * combined - first).double()
        weight = ((rest * gap).sum() / gap.square().sum().clamp_min(1e-30)).item()
        if not 0 <= weight <= 1 and close(sign * combined, first + weight * (second - first)):
            return sign, weight < 0
    return None
