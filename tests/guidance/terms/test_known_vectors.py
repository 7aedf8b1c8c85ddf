"""Known answers: one sample of three numbers, worked out by hand from the papers' formulas."""

import math

import pytest
import torch
from guiders import APG, CFG, TCFG, CFGZeroStar, MagnitudeAware, Rescale
from guiders.guidance import Level, Prediction, Query, Readout, Step
from guiders.guidance.engine.state import State
from guiders.guidance.engine.vectors import cosine
from hypothesis import given
from hypothesis import strategies as st
from known import guide

C = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64)
U = torch.tensor([[0.5, 1.0, -1.0]], dtype=torch.float64)


def check(guider, expected, times=1):
    got = guide(guider, C, U, times)[-1]
    torch.testing.assert_close(
        got, torch.tensor([expected], dtype=torch.float64), atol=2e-6, rtol=0
    )


def test_cfg():
    check(CFG(3), (2, 4, 8))


@pytest.mark.parametrize(
    ("eta", "rescale", "expected"),
    [
        (0, 0, (0.111111, 0.222222, 4.222222)),
        (0, 1, (0.722358, 1.444716, 2.694106)),
        (0.5, 1, (1.017353, 2.034705, 3.284095)),
        (1, 0, (2, 4, 8)),
    ],
)
def test_apg(eta, rescale, expected):
    check(APG(3, eta=eta, rescale=rescale, momentum=0), expected)


def test_apg_momentum_counts_from_the_second_step():
    check(APG(3, eta=0, rescale=0, momentum=-0.5), (0.111111, 0.222222, 4.222222), times=1)
    check(APG(3, eta=0, rescale=0, momentum=-0.5), (0.555556, 1.111111, 3.111111), times=2)


def test_guidance_rescale():
    check(CFG(3) | Rescale(0.7), (0.864575, 1.729150, 3.458301))


def test_cfg_zero_star():
    check(CFGZeroStar(3), (2.777778, 5.555556, 6.444444))


def test_tcfg():
    check(TCFG(3), (2.848053, 5.696106, 5.717699))
    both = torch.stack([C, U], dim=1)
    v = torch.linalg.svd(both, full_matrices=False).Vh[0, 0]
    damped = (U @ v)[:, None] * v
    torch.testing.assert_close(guide(TCFG(3), C, U)[0], damped + 3 * (C - damped))


def test_magnitude_aware():
    ratio = (C - U).norm() / U.norm()
    expected = C + 2 * torch.exp(-0.1 * ratio) * (C - U)
    torch.testing.assert_close(guide(MagnitudeAware(3, alpha=0.1), C, U)[0], expected)
    torch.testing.assert_close(guide(MagnitudeAware(3, alpha=0), C, U)[0], guide(CFG(3), C, U)[0])


@pytest.mark.parametrize("kind", [CFGZeroStar, TCFG, MagnitudeAware])
def test_methods_on_the_output_do_not_depend_on_how_a_weak_model_is_parameterised(kind):
    """The same reference, written once as the positive's parameterisation and once as x0."""
    x, level = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64), Level(0.6, 0.8)
    own = Readout(0.6, -0.8)
    positive = Prediction(x, C, own)
    same = Prediction(x, U, own).relative_to(positive)
    other = Prediction(x, own.x0(x, U), Readout(0.0, 1.0)).relative_to(positive)
    q, state = Query(x, Step(0, 1, 0, level)), State(1).view([0])
    torch.testing.assert_close(
        kind(3).delta(q, positive, same, 3.0, state).tensor(),
        kind(3).delta(q, positive, other, 3.0, state).tensor(),
    )


def test_cosine():
    assert cosine(C, U).values.item() == pytest.approx(1 / 9)


@given(st.floats(0.01, 10))
def test_rescaled_gap_is_never_longer_than_the_radius(radius):
    gap = guide(APG(2, eta=1, rescale=radius, momentum=0), C, U)[0] - C
    assert gap.norm().item() == pytest.approx(min(radius, math.sqrt(10.25)))


def test_zero_vectors_give_no_nan():
    zero = torch.zeros(1, 3)
    methods = (APG(3), APG(3, rescale=1), CFG(3), CFGZeroStar(3), TCFG(3), MagnitudeAware(3))
    for guider in (*methods, CFG(3) | Rescale()):
        assert guide(guider, zero, zero)[0].tolist() == [[0, 0, 0]]
    c = zero.clone().requires_grad_()
    guide(APG(3, rescale=1), c, zero)[0].sum().backward()
    assert c.grad.isfinite().all()
