"""The guidance interval."""

import pytest
from guiders import CFG, Interval
from guiders.guidance import NEGATIVE, Denoiser
from guiders.guidance.engine.state import State
from known import step


def test_interval_is_open_below_and_closed_above():
    scale = Interval(7, low=0.5, high=2)
    at = [scale.at(step(sigma=sigma), State(1))[0] for sigma in (0.5, 0.500001, 2, 2.000001)]
    assert at == [1, 7, 7, 1]
    assert Interval(7).at(step(sigma=1e9), State(1)) == [7]


@pytest.mark.parametrize(("bounds", "expected"), [((0.28, 2.90), 16), ((0.2831, 2.902), 15)])
def test_published_bounds_of_intervals_are_rounded(bounds, expected):
    """EDM2's grid: taken literally, (0.28, 2.90] begins at step 16 of 32, meant is 15."""
    n, rho, low, high = 32, 7, 0.002, 80.0
    sigma = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    denoiser = Denoiser(CFG(Interval(2.1, *bounds)), 1)
    guided = [i for i in range(n) if NEGATIVE in denoiser.plan(step(i, n, sigma=sigma[i])).branches]
    assert guided[0] == expected
    assert guided[-1] == (22 if bounds[0] == 0.28 else 21)
