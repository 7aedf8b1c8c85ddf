"""The training's optimiser: known answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[2] / "training"


@pytest.fixture(scope="module", autouse=True)
def on_the_path():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("shape", [(64, 64), (48, 200), (200, 48)])
def test_a_matrix_keeps_its_directions_and_loses_its_sizes(shape):
    from muon import orthogonal

    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix).float()
    singular = u.T @ found @ v.T  # diagonal if the directions are kept
    assert (singular - singular.diag().diag()).abs().max() < 0.05
    # the iteration's range; the smallest singular values are not lifted all the way
    assert singular.diag().max() < 1.3
    assert singular.diag().median() > 0.6


def test_a_step_moves_by_its_size_whatever_the_gradient_is():
    from muon import Muon

    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(64, 32, 3, 3))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    weight.grad = 1e-4 * torch.randn_like(weight)
    optimizer.step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.3)
    assert (weight * weight.grad).sum() < 0


def test_weight_decay_is_not_part_of_the_gradient():
    from muon import Muon

    weight = nn.Parameter(torch.ones(32, 32))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight, torch.full_like(weight, 1 - 0.1 * 0.5))


def test_every_matrix_is_worked_on_once_and_the_work_is_even():
    from muon import shares

    owners = shares([1, 7, 2, 5, 5, 4], 2)
    assert set(owners) == {0, 1}
    loads = [
        sum(s for s, o in zip([1, 7, 2, 5, 5, 4], owners, strict=True) if o == k) for k in (0, 1)
    ]
    assert loads == [12, 12]


def test_vectors_and_thin_kernels_are_left_to_adam():
    from muon import is_matrix

    shapes = {
        (64,): False,
        (16, 96, 3, 3): False,
        (96, 16, 3, 3): True,
        (24, 24): True,
        (24, 8): False,
    }
    for shape, expected in shapes.items():
        assert is_matrix(nn.Parameter(torch.zeros(shape))) is expected, shape
