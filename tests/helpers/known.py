"""Guiders on known numbers: a network that answers with given tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from guiders.guidance import (
    POSITIVE,
    Branch,
    Denoiser,
    Guider,
    Level,
    Prediction,
    Query,
    Readout,
    Step,
)
from torch import Tensor

NEGATIVE = Branch("negative")
CLEAN = Readout(0.0, 1.0)  # the output is x0


class Answers:
    """A network whose outputs are given; it counts the rows of each branch."""

    def __init__(self, positive: Tensor, negative: Tensor, readout: Readout = CLEAN) -> None:
        self.outputs = {POSITIVE: positive, NEGATIVE: negative}
        self.readout = readout
        self.asked = {POSITIVE: 0, NEGATIVE: 0}

    def __call__(self, q: Query, requests: dict) -> dict:
        answers = {}
        for branch, rows in requests.items():
            self.asked[branch] += len(rows)
            output = self.outputs[branch][torch.as_tensor(rows)]
            answers[branch] = Prediction(q.x[torch.as_tensor(rows)], output, self.readout)
        return answers


def step(index: int = 0, total: int = 10, stage: int = 0, sigma: float = 1.0) -> Step:
    alpha = 1 / (1 + sigma * sigma) ** 0.5
    return Step(index, total, stage, Level(alpha, sigma * alpha))


def guide(
    guider: Guider | Sequence[Guider], positive: Tensor, negative: Tensor, times: int = 1
) -> list[Tensor]:
    """The guided x0 of ``times`` steps in which the network always says the same."""
    network = Answers(positive, negative)
    denoiser = Denoiser(guider, len(positive))
    x = torch.zeros_like(positive)
    return [denoiser(Query(x, step(i)), network).output for i in range(times)]


def pictures(batch, seed, *shape):
    shape = shape or (2, 8, 8)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))
