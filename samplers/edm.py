"""The sampler of Karras et al. 2022: Heun's method in sigma, with or without churn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ..guidance import Guided, Level, Query, Step
from ..guidance.engine.config import Config, integer, number, reject


@dataclass(frozen=True)
class EDM(Config):
    """Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364), on ``x = x0 + sigma * noise``.

    The levels are those of its equation 5, and 0 at the end::

        sigma_i = (sigma_max^(1/rho) + i/(N-1) * (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho

    A step first adds noise up to ``sigma_i * (1 + gamma)`` where ``s_churn`` says so, then goes
    down by Euler and corrects by the trapezoidal rule: 2 N - 1 evaluations for N steps.

    Attributes:
        sigma_max, sigma_min, rho: of the levels.
        s_churn: noise added anew, over all steps; 0 is the deterministic sampler.
        s_min, s_max: only where sigma is within these (the paper's S_tmin and S_tmax).
        s_noise: spread of the added noise.
        order: 2, or 1 for Euler's method.
    """

    sigma_max: float = number(80.0, low=0)
    sigma_min: float = number(0.002, low=0)
    rho: float = number(7.0, low=0, open_ends=True)
    s_churn: float = number(0.0, low=0)
    s_min: float = number(0.0, low=0)
    s_max: float | None = number(None, low=0, optional=True)
    s_noise: float = number(1.0, low=0)
    order: int = integer(2, low=1, high=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            expected = f"a number between 0 and sigma_max (= {self.sigma_max:g}), exclusive"
            raise reject(self, "sigma_min", self.sigma_min, expected)

    def sigmas(self, count: int) -> list[float]:
        """The ``count`` levels, and 0."""
        top, end = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        shares = [i / max(count - 1, 1) for i in range(count)]
        return [(top + share * (end - top)) ** self.rho for share in shares] + [0.0]

    def raised(self, sigma: float, count: int) -> float:
        """The level to which churn raises ``sigma`` in a run of ``count`` steps."""
        inside = self.s_min <= sigma and (self.s_max is None or sigma <= self.s_max)
        return sigma * (1 + inside * min(self.s_churn / count, math.sqrt(2) - 1))

    def evaluations(self, count: int) -> list[Step]:
        """All evaluations of a run of ``count`` steps, see ``Step``."""
        sigmas = self.sigmas(count)
        found: list[tuple[int, float]] = []
        for here, there in itertools.pairwise(sigmas):
            found.append((0, self.raised(here, count)))
            if self.order == 2 and there:
                found.append((1, there))
        levels = [Level(1.0, sigma) for _, sigma in found]
        return [
            Step(index, len(found), stage, levels[index], following)
            for index, ((stage, _), following) in enumerate(
                zip(found, [*levels[1:], None], strict=True)
            )
        ]

    def solve(
        self,
        x: Tensor,
        steps: list[Step],
        evaluate: Callable[[Query], Guided],
        draw: Callable[[Tensor], Tensor],
    ) -> Iterator[tuple[Tensor, Guided]]:
        """The steps of a run, see ``sample``; what is sent is where the run goes on."""
        count = sum(step.stage == 0 for step in steps)
        sigmas = self.sigmas(count)
        left = iter(steps)
        for here, there in itertools.pairwise(sigmas):
            step = next(left)
            sigma = step.level.std
            if sigma > here:
                x = x + math.sqrt(sigma**2 - here**2) * self.s_noise * draw(x)
            guided = evaluate(Query(x, step))
            slope = (x - guided.x0.to(x.dtype)) / sigma
            after = x + (there - sigma) * slope
            if self.order == 2 and there:
                guided = evaluate(Query(after, next(left)))
                corrected = (after - guided.x0.to(x.dtype)) / there
                after = x + (there - sigma) * (slope + corrected) / 2
            sent = yield after, guided
            x = after if sent is None else sent
