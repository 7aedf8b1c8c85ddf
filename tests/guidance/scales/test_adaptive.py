"""Adaptive Guidance: the latch of each image."""

import math

import torch
from guiders import CFG, Adaptive, Interval, Stale
from guiders.guidance import NEGATIVE, Denoiser, Query, Readout
from guiders.guidance.engine.state import State
from known import Answers, step


def agreeing(cosines, threshold, space="x0"):
    """Scales at the steps of two images whose predictions have these cosines."""
    denoiser = Denoiser(CFG(Adaptive(4, threshold=threshold, space=space)), 2)
    scales = []
    for i, row in enumerate(cosines):
        c = torch.tensor([[1.0, 0.0]] * 2)
        u = torch.tensor([[x, math.sqrt(1 - x * x)] for x in row])
        record = denoiser(Query(c, step(i, len(cosines))), Answers(c, u)).record
        scales.append([s for (s,) in record.scales])
    return scales


def test_adaptive_pays_for_the_step_that_agrees_and_stops_for_good():
    cosines = [(0.5, 0.5), (0.95, 0.5), (0.2, 0.89), (0.2, 0.91), (0.2, 0.2)]
    assert agreeing(cosines, 0.9) == [[4, 4], [4, 4], [1, 4], [1, 4], [1, 1]]


def test_a_threshold_of_one_stops_where_nothing_is_left_to_guide():
    assert agreeing([(0.99999, 1.0)] * 3, 1.0) == [[4, 4], [4, 1], [4, 1]]


def test_adaptive_in_another_space():
    # sigma 1: alpha = sigma, so eps = (x - alpha * x0) / sigma = x / sigma - x0.
    denoiser = Denoiser(CFG(Adaptive(4, threshold=0.9, space="eps")), 1)
    x = torch.tensor([[math.sqrt(0.5), 0.0]])
    c, u = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 2.0]])  # eps (0, -1) and (0, -2)
    denoiser(Query(x, step(0)), Answers(c, u))
    assert denoiser(Query(x, step(1)), Answers(c, u)).record.scales == [(1,)]


def test_adaptive_inside_an_interval():
    scale = Adaptive(Interval(4, low=0, high=2), threshold=0.9)
    assert scale.at(step(sigma=3), State(1)) == [1]
    assert scale.at(step(sigma=1), State(1)) == [4]


def test_a_threshold_for_each_space():
    assert [Adaptive(3, space=s).threshold for s in ("x0", "eps", "output")] == [
        0.999, 0.991, 0.991,
    ]  # fmt: skip
    assert Stale().threshold == 0.999


def test_an_agreement_is_kept_though_the_cosine_falls_again():
    cosines, denoiser, asked = [0.5, 0.999, 0.2, 0.3], Denoiser(CFG(Adaptive(3, 0.99)), 1), []
    for i, value in enumerate(cosines):
        u = torch.tensor([[value, math.sqrt(1 - value**2)]])
        network = Answers(torch.tensor([[1.0, 0.0]]), u)
        denoiser(Query(u, step(i, 4)), network)
        asked.append(network.asked[NEGATIVE])
    assert asked == [1, 1, 0, 0]  # a test at each step would give 1, 1, 1, 1


def test_on_latent_models_eps_agrees_from_the_first_step_on():
    """Two eps that differ by one per cent pass 0.991, while the clean images are far apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 500, generator=generator)
    at = step(0, sigma=14.6)
    readout = Readout(1 / at.level.alpha, -at.level.std / at.level.alpha)
    eps = torch.randn(1, 500, generator=generator)
    other = eps + 0.02 * torch.randn(1, 500, generator=generator)
    stopped = {}
    for space in ("eps", "x0"):
        denoiser = Denoiser(CFG(Adaptive(5, 0.991, space)), 1)
        x_ = at.level.alpha * torch.zeros_like(x) + at.level.std * eps
        denoiser(Query(x_, at), Answers(eps, other, readout))
        stopped[space] = NEGATIVE not in denoiser.plan(step(1, sigma=10.0)).branches
    assert stopped == {"eps": True, "x0": False}
