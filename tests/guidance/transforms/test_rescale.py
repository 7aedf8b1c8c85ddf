"""Guidance rescale."""

import torch
from guiders import CFG, Rescale
from known import guide


def test_rescale_of_nothing_is_neutral():
    one = torch.tensor([[2.0]])
    assert guide(CFG(3) | Rescale(0), one, one * 0.5)[0].tolist() == [[4.0]]
