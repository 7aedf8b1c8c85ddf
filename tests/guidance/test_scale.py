"""Schedules, intervals, and the latch of Adaptive Guidance."""

import math

import pytest
import torch
from guiders import CFG, Adaptive, Cosine, Custom, Interval, Linear
from guiders.guidance import Denoiser, Query
from guiders.guidance.engine.state import State
from known import Answers, step


def values(scale, total=5):
    return [CFG(scale).scale.at(step(i, total), State(1))[0] for i in range(total)]


def test_schedules():
    assert values(3) == [3] * 5
    assert values(Linear(1, 9)) == [1, 3, 5, 7, 9]
    assert values(Cosine(0, 2)) == pytest.approx([0, 1 - math.sqrt(0.5), 1, 1 + math.sqrt(0.5), 2])
    assert values(lambda s: 10 * s.progress) == [0, 2.5, 5, 7.5, 10]
    assert values(Linear(2, 4), total=1) == [2]


def test_a_function_may_answer_for_each_image():
    scale = CFG(lambda s: torch.tensor([1.0, 2.0 + s.index])).scale
    assert scale.at(step(3), State(2)) == [1, 5]
    with pytest.raises(ValueError, match="expected a number"):
        CFG(lambda s: "high").scale.at(step(), State(1))
    with pytest.raises(ValueError, match="-1"):
        CFG(lambda s: -1.0).scale.at(step(), State(1))


def test_interval_is_open_below_and_closed_above():
    scale = Interval(7, low=0.5, high=2)
    at = [scale.at(step(sigma=sigma), State(1))[0] for sigma in (0.5, 0.500001, 2, 2.000001)]
    assert at == [1, 7, 7, 1]
    assert Interval(7).at(step(sigma=1e9), State(1)) == [7]


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


def test_a_function_is_stored_by_name_only():
    with pytest.raises(ValueError, match="importable"):
        CFG(lambda s: 3).to_dict()
    stored = CFG(Custom("math:sqrt")).to_dict()
    assert stored["scale"] == {"type": "Custom", "function": "math:sqrt"}
    with pytest.raises(ValueError, match="MODULE:NAME"):
        Custom("math:nothing")
