"""CFG++ as a schedule of CFG."""

import math

import pytest
import torch
from guiders import CFG, CFGPlusPlus
from guiders.guidance import Denoiser, Level, Query, Readout, Step
from guiders.guidance.engine.state import State
from known import Answers


def test_cfg_plus_plus_as_a_schedule():
    """Appendix vector: lambda 0.6, alpha-bar .5 -> .8, x = (1, 1, 1), eps c = (1, 2, 2) and
    u = (.5, 1, -1)."""
    c, u, x = torch.tensor([[1.0, 2, 2]]), torch.tensor([[0.5, 1, -1]]), torch.ones(1, 3)
    now, then = (Level(math.sqrt(a), math.sqrt(1 - a)) for a in (0.5, 0.8))
    network = Answers(c, u, Readout(1 / now.alpha, -now.std / now.alpha))
    at = Step(0, 2, 0, now, then)
    denoiser = Denoiser(CFG(CFGPlusPlus(0.6)), 1)
    eps = denoiser(Query(x, at), network).output
    x0 = (x - now.std * eps) / now.alpha
    after = then.alpha * x0 + then.std * eps  # plain DDIM
    expected = torch.tensor([[0.772976, 0.281041, 0.102156]])
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)
    assert CFG(CFGPlusPlus(0.6)).scale.at(at, State(1)) == pytest.approx([1.2])
    last = Step(1, 2, 0, now, None)  # to the clean image: lambda itself
    assert CFG(CFGPlusPlus(0.6)).scale.at(last, State(1)) == [0.6]
