"""Dynamic thresholding on known numbers."""

import torch
from guiders import CFG, DynamicThreshold
from known import guide


def test_dynamic_thresholding():
    c = torch.tensor([[0.5, -0.5, 0.2, 0.1], [0.1, 0.1, -0.1, 0.0]])
    u = torch.zeros_like(c)
    plain = guide(CFG(4), c, u)[0]  # (2, -2, .8, .4) and within [-1, 1]
    out = guide(CFG(4) | DynamicThreshold(1.0), c, u)[0]
    torch.testing.assert_close(out[0], torch.tensor([1.0, -1.0, 0.4, 0.2]))
    torch.testing.assert_close(out[1], plain[1])
    median = guide(CFG(4) | DynamicThreshold(0.5, limit=0.7), c, u)[0]  # of .4 .8 2 2: 1.4
    torch.testing.assert_close(median[0], torch.tensor([0.7, -0.7, 0.4, 0.2]))
