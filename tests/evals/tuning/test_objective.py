"""What a search calls better."""

import math

import numpy as np
import pytest
from guiders.evals import Figure
from guiders.evals.runs.registry import Wanted
from guiders.evals.tuning.objective import Goal, parse_goal

LOWER, HIGHER = Goal(Wanted("fd"), "lower"), Goal(Wanted("class"), "higher")
NEAREST = Goal(Wanted("saturation"), target=30.0)


@pytest.mark.parametrize(
    ("goal", "start", "best", "word"),
    [
        (LOWER, 5.0, 4.0, "holds"),
        (LOWER, 4.0, 5.0, "is worse"),
        (HIGHER, 4.0, 5.0, "holds"),
        (HIGHER, 5.0, 4.0, "is worse"),
        (NEAREST, 33.0, 31.0, "holds"),
        (NEAREST, 27.0, 29.0, "holds"),
        (NEAREST, 29.0, 33.0, "is worse"),
    ],
)
def test_verdicts(goal, start, best, word):
    shared = np.random.default_rng(0).normal(size=200)

    def figure(value, noise):
        return Figure(value, value + 0.3 * shared + noise * np.roll(shared, 1))

    def said(noise):
        one = goal.loss(figure(best, noise)).minus(goal.loss(figure(start, 0)))
        return goal.verdict(one)

    assert said(0.01) == word  # what both share cancels
    assert said(9.0) == "within chance"
    none = goal.loss(Figure(best)).minus(goal.loss(Figure(start)))
    assert goal.verdict(none) == "cannot be told"


def test_draws_that_lie_too_high_are_brought_back_before_the_target():
    draws = 40 + np.random.default_rng(0).normal(size=500)  # of a value of 30: shifted by 10
    near = NEAREST.loss(Figure(30.0, draws, centred=True))
    assert near.value == 0
    assert near.draws.mean() < 1


@pytest.mark.parametrize(
    ("text", "more", "complaint"),
    [
        ("saturation", {}, "neither lower nor higher is better by itself"),
        ("math:sqrt", {}, "neither lower nor higher is better by itself"),
        ("saturation", {"direction": "up"}, "direction is 'up'; allowed is one of lower, higher"),
        ("saturation", {"direction": "lower", "target": 1.0}, "allowed is one of the two"),
        ("saturation", {"target": math.nan}, "target is nan; allowed is a finite number"),
        ("fd", {"direction": "higher"}, "direction is 'higher'; allowed for fd is lower"),
        ("ssim", {}, "which compares with a baseline"),
        ("memory", {}, "of the process and not of one guider"),
        ("clip:emoji-judge", {}, "kept for published figures"),
        ("emoji-judge", {}, "allowed is one of fd, "),
        ("fiid", {}, "allowed is one of fd, "),
        ("no_such_module:score", {"direction": "lower"}, "No module named"),
    ],
)
def test_goals_that_are_none(text, more, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_goal(text, "emoji", **more)


def test_goals():
    assert parse_goal("fd", "emoji").direction == "lower"
    assert parse_goal("class", "emoji").direction == "higher"
    assert parse_goal("fid", "emoji").one.key == "fd:inception"
    assert parse_goal("jpeg", "emoji").direction == "higher"  # a reward
    assert parse_goal("jpeg", "emoji", "lower").direction == "lower"
    assert parse_goal("nfe", "emoji", target=20).target == 20
