"""How far one result is from another."""

from __future__ import annotations

from torch import Tensor


def error(a: Tensor, b: Tensor) -> float:
    """The distance of ``a`` from ``b`` as a share of the norm of ``b``, in float64."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
