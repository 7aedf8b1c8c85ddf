"""The difference that is kept from the step at which the predictions agreed."""

import math

import pytest
import torch
from guiders import CFG, Stale
from guiders.guidance import NEGATIVE, Denoiser, Query
from known import Answers, step


def agreeing(guider, cosines):
    """Outputs and evaluations of steps whose two predictions have the given cosines."""
    denoiser, out = Denoiser(guider, 1), []
    for i, value in enumerate(cosines):
        c = torch.tensor([[1.0, 0.0]])
        u = torch.tensor([[value, math.sqrt(1 - value * value)]])
        network = Answers(c, u)
        result = denoiser(Query(c, step(i, len(cosines))), network)
        out.append((result.output[0].tolist(), network.asked[NEGATIVE]))
    return out


def test_the_stale_difference_is_kept_from_the_step_that_agreed():
    found = agreeing(CFG(3, reference=Stale(0.99)), [0.5, 0.995, 0.2, -0.7])
    assert [asked for _, asked in found] == [1, 1, 0, 0]
    kept = [1 + 2 * (1 - 0.995), -2 * math.sqrt(1 - 0.995**2)]
    for output, _ in found[1:]:  # the cosine falls again, and nobody looks
        assert output == pytest.approx(kept, abs=1e-6)


def test_stale_with_an_unreachable_threshold_is_what_is_inside():
    cosines = [0.5, 0.999, 0.9999, 0.3]
    assert agreeing(CFG(3, reference=Stale(1)), cosines) == agreeing(CFG(3), cosines)


def test_stale_keeps_images_apart():
    denoiser = Denoiser(CFG(3, reference=Stale(0.9)), 2)
    c = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    first = torch.tensor([[1.0, 0.1], [0.0, 1.0]])  # only the first agrees
    network = Answers(c, first)
    denoiser(Query(c, step(0)), network)
    network = Answers(c, torch.tensor([[0.0, 9.0], [0.5, 0.5]]))
    out = denoiser(Query(c, step(1)), network).output
    assert network.asked[NEGATIVE] == 1
    torch.testing.assert_close(out, torch.tensor([[1.0, -0.2], [2.0, -1.0]]))
