"""Intervals by the bootstrap (Efron 1979): how far a figure moves with the pictures drawn.

Compare two guiders on the same prompts and seeds, and take the interval of the *differences*: what
the pictures share then cancels, and far fewer of them are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    centred: bool = False,
) -> Estimate:
    """``statistic(values)`` with its percentile interval.

    Args:
        values: (N, ...) one row for a picture; rows are drawn with replacement.
        statistic: rows to a number.
        centred: put the interval about the value, with its width. For statistics that drawing with
            replacement shifts: a Frechet distance grows with every row that is there twice.

    Raises:
        ValueError: there is no row.
    """
    values = np.asarray(values)
    if not len(values):
        raise ValueError("values are empty; needed is at least one row")
    generator = np.random.default_rng(seed)
    drawn = [
        statistic(values[generator.integers(len(values), size=len(values))]) for _ in range(samples)
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    value = float(statistic(values))
    if centred:
        low, high = value - (high - low) / 2, value + (high - low) / 2
    return Estimate(value, float(low), float(high))
