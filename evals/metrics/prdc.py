"""Precision, recall, density and coverage: two sets of features compared by nearest neighbours.

Kynkaanniemi et al. 2019 (arXiv:1904.06991) for precision and recall: a picture counts where it lies
within the ball of at least one picture of the other set, whose radius is the distance to its k-th
neighbour in its own set, itself not counted; on the boundary is within. Naeem et al. 2020
(arXiv:2002.09797) for density and coverage, strictly within: density is the number of real balls
that hold a drawn picture over k, coverage the share of real balls that hold one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK = 2048  # rows of the distance matrix at a time


class Neighbours(NamedTuple):
    """One number for a picture; the figures are the means.

    Attributes:
        precision, density: (N,) of the drawn pictures.
        recall, coverage: (M,) of the real ones.
    """

    precision: np.ndarray
    recall: np.ndarray
    density: np.ndarray
    coverage: np.ndarray


def neighbours(real: Tensor | np.ndarray, drawn: Tensor | np.ndarray, k: int = 3) -> Neighbours:
    """All four in one pass over the distances.

    Args:
        real: (M, D) features.
        drawn: (N, D) features.
        k: the neighbour whose distance is the radius; the papers take 3 and 5.

    Raises:
        ValueError: a set has no more than k pictures, or the two differ in D.
    """
    x, y = (torch.as_tensor(z).detach().cpu().double() for z in (real, drawn))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features have shapes {tuple(x.shape)} and {tuple(y.shape)}; allowed are (M, D) and "
            "(N, D) of one network"
        )
    if min(len(x), len(y)) <= k or k < 1:
        raise ValueError(
            f"k is {k}, for {len(x)} and {len(y)} pictures; allowed is from 1 to below both"
        )
    centre = x.mean(dim=0)  # nearer to the origin, squared distances keep more digits
    x, y = x - centre, y - centre
    own_x, own_y = _radii(x, k), _radii(y, k)
    precision = torch.zeros(len(y), dtype=torch.bool)
    density = torch.zeros(len(y), dtype=torch.float64)
    recall, coverage = [], []
    for rows, radius in zip(x.split(CHUNK), own_x.split(CHUNK), strict=True):
        distance = _squared(rows, y)
        precision |= (distance <= radius[:, None]).any(dim=0)
        inside = distance < radius[:, None]
        density += inside.sum(dim=0)
        recall.append((distance <= own_y).any(dim=1))
        coverage.append(inside.any(dim=1))
    return Neighbours(
        precision.double().numpy(), torch.cat(recall).double().numpy(),
        (density / k).numpy(), torch.cat(coverage).double().numpy(),
    )  # fmt: skip


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (len(a), len(b))."""
    lengths = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return torch.addmm(lengths, a, b.T, alpha=-2).clamp_(min=0)


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th neighbour, the row itself not counted."""
    radii = []
    for start in range(0, len(x), CHUNK):
        distance = _squared(x[start : start + CHUNK], x)
        rows = torch.arange(len(distance))
        distance[rows, rows + start] = -1  # first of all, whatever its rounding
        radii.append(distance.kthvalue(k + 1, dim=1).values.clamp(min=0))
    return torch.cat(radii)
