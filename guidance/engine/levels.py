"""Where a run is: noise levels, and how a network's output is read there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .tensors import upcast


@dataclass(frozen=True)
class Level:
    """A noise level: ``x = alpha * x0 + std * eps`` with unit normal ``eps``."""

    alpha: float
    std: float

    @property
    def edm(self) -> float:
        """``std / alpha``: the sigma of Karras et al. (2022), the same on every scale.

        It is the sigma of steps, intervals and records. Infinite at ``alpha = 0``.
        """
        return self.std / self.alpha if self.alpha else math.inf


@dataclass(frozen=True)
class Readout:
    """How a network's output is read as a clean image: ``x0 = skip * x + gain * output``.

    Every parameterisation is of this form (x is what the network sees), for a VP level:
    eps ``(1 / alpha, -sigma / alpha)``, v ``(alpha, -sigma)``, sample ``(0, 1)``; for rectified
    flow ``(1, -sigma)``; EDM preconditioning ``(c_skip / c_in, c_out)``. ``gain`` is also the
    factor between a gap in output space and the same gap in x0 space.
    """

    skip: float
    gain: float

    def x0(self, x: Tensor, output: Tensor) -> Tensor:
        """The clean image, in at least float32; shapes as given, (B, ...)."""
        return self.skip * upcast(x) + self.gain * upcast(output)


@dataclass(frozen=True)
class Step:
    """Where a run is.

    Attributes:
        index: the evaluation's number in the run, from 0.
        total: evaluations in the run (Heun has 19 for 10 steps, PNDM 11).
        stage: 0 for the first evaluation of a solver step, above for the others of the same step.
        level: the noise level of this evaluation.
        next_level: that of the next one, and after the last one where the run ends; ``None`` is
            the clean image.
    """

    index: int
    total: int
    stage: int
    level: Level
    next_level: Level | None = None

    @property
    def sigma(self) -> float:
        """The noise level in EDM's unit, see ``Level.edm``."""
        return self.level.edm

    @property
    def next_sigma(self) -> float:
        """The noise level that the solver goes to next, in EDM's unit; 0 is the clean image."""
        return self.next_level.edm if self.next_level else 0.0

    @property
    def progress(self) -> float:
        """0 at the first evaluation, 1 at the last."""
        return self.index / (self.total - 1) if self.total > 1 else 0.0
