"""Steps that move nothing and evaluate nothing."""

import math

import pytest
from guiders import CFG, CFGZeroStar, ZeroInit
from guiders.guidance import NEGATIVE, POSITIVE, Denoiser, Level, Query, Readout, Step
from known import Answers, guide, pictures


def flow(index, sigma, total=4):
    return Step(index, total, 0, Level(1 - sigma, sigma))


def test_zero_init_moves_nothing_and_asks_for_nothing():
    c, u = pictures(2, 0), pictures(2, 1)
    denoiser = Denoiser([CFGZeroStar(5) | ZeroInit(), CFG(5)], 2)
    network = Answers(c, u, Readout(1.0, -0.9))
    result = denoiser(Query(c, flow(0, 0.9)), network)
    assert result.output[0].abs().max() == 0
    assert result.output[1].abs().max() > 0
    assert network.asked == {POSITIVE: 1, NEGATIVE: 1}
    assert result.record.evaluations == [0, 2]
    network = Answers(c, u, Readout(1.0, -0.6))
    assert denoiser(Query(c, flow(1, 0.6)), network).record.evaluations == [2, 2]
    alone = Denoiser(CFG(5) | ZeroInit(2), 2)(Query(c, flow(0, 0.9)), Answers(c, u))
    assert alone.output.abs().max() == 0
    assert alone.record.evaluations == [0, 0]


def test_zero_init_is_for_flows():
    with pytest.raises(ValueError, match="allowed are flows"):
        guide(CFG(5) | ZeroInit(), pictures(1, 0), pictures(1, 1))
    zero_snr = Step(0, 4, 0, Level(0.0, 1.0), Level(0.3, math.sqrt(1 - 0.09)))
    with pytest.raises(ValueError, match="allowed are flows"):
        Denoiser(CFG(5) | ZeroInit(), 1).plan(zero_snr)


def test_zero_init_counts_solver_steps():
    denoiser = Denoiser(CFG(5) | ZeroInit(2), 1)
    stages = [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1)]
    asked = [
        denoiser.plan(Step(i, 6, stage, Level(0.1 * i, 1 - 0.1 * i))).branches[POSITIVE]
        for i, stage in stages
    ]
    assert asked == [[], [], [], [], [0], [0]]
