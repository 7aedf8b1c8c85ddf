"""Scales that depend on the step alone."""

import math

import pytest
import torch
from guiders import CFG, Cosine, Custom, Linear
from guiders.guidance.engine.state import State
from known import step


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


def test_a_function_is_stored_by_name_only():
    with pytest.raises(ValueError, match="importable"):
        CFG(lambda s: 3).to_dict()
    stored = CFG(Custom("math:sqrt")).to_dict()
    assert stored["scale"] == {"type": "Custom", "function": "math:sqrt"}
    with pytest.raises(ValueError, match="MODULE:NAME"):
        Custom("math:nothing")
