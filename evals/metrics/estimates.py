"""A figure with its interval, and the difference of two that share prompts and seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .bootstrap import Estimate
from .frechet import Moments, frechet_distance

SAMPLES = 200
BUDGET = 2e11  # multiplications that an interval of a Frechet distance may cost


@dataclass(frozen=True)
class Figure:
    """A number, and what it would have been with the pictures drawn again.

    Attributes:
        draws: (S,) values over the same S draws of picture numbers in every figure of as many
            pictures, so that differences are paired; ``None`` where there are none.
        centred: drawing with replacement shifts it, so the interval lies about the value.
    """

    value: float
    draws: np.ndarray | None = None
    centred: bool = False

    @property
    def estimate(self) -> Estimate:
        """The value with a 95 % interval; nan ends where there is none."""
        return _estimate(self.value, self.draws, self.centred)

    def minus(self, other: Figure) -> Estimate:
        """The difference, whose interval is paired where both are of the same draws."""
        one, two = self.draws, other.draws
        draws = None
        if one is not None and two is not None and one.shape == two.shape:
            draws = one - two
        return _estimate(self.value - other.value, draws, self.centred or other.centred)

    def to_dict(self) -> dict[str, Any]:
        ends = self.estimate[1:]
        low, high = (None if np.isnan(end) else end for end in ends)
        return {"value": self.value, "low": low, "high": high}


def _estimate(value: float, draws: np.ndarray | None, centred: bool) -> Estimate:
    if draws is None or not len(draws):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(draws, [0.025, 0.975])
    if centred:
        low, high = value - (high - low) / 2, value + (high - low) / 2
    return Estimate(float(value), float(low), float(high))


def drawn_again(count: int, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """(samples, count) picture numbers with replacement; the same for every figure."""
    return np.random.default_rng(seed).integers(count, size=(samples, count))


def mean(rows: np.ndarray, samples: int = SAMPLES) -> Figure:
    """The mean of one number for each picture."""
    rows = np.asarray(rows, dtype=np.float64)
    return Figure(float(rows.mean()), _over(rows, np.mean, samples))


def median(rows: np.ndarray, samples: int = SAMPLES) -> Figure:
    """The median of one number for each batch."""
    rows = np.asarray(rows, dtype=np.float64)
    return Figure(float(np.median(rows)), _over(rows, np.median, samples))


def _over(rows: np.ndarray, statistic: Callable[..., Any], samples: int) -> np.ndarray | None:
    if len(rows) < 2 or not samples:
        return None
    return np.array([statistic(rows[again]) for again in drawn_again(len(rows), samples)])


def distance(features: torch.Tensor, reference: Moments, samples: int | None = None) -> Figure:
    """The Frechet distance of (N, D) features.

    Args:
        samples: of the bootstrap; ``None`` is 200 where they take seconds, and none beyond.
    """
    value = frechet_distance(Moments.of(features), reference)
    n, d = features.shape
    if samples is None:
        samples = SAMPLES if SAMPLES * (n * d**2 + 10 * d**3) <= BUDGET else 0
    x = features.double()
    draws = [
        frechet_distance(Moments.of(x[torch.from_numpy(again)]), reference)
        for again in drawn_again(n, samples)
    ]
    return Figure(value, np.array(draws) if draws else None, centred=True)
