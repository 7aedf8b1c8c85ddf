"""Maximum mean discrepancies between two sets of features: KID and CMMD.

KID is Binkowski et al. 2018 (arXiv:1801.01401), equation 4 on Inception features; CMMD Jayasumana
et al. 2024 (arXiv:2401.09603) on those of CLIP ViT-L/14 at 336 pixels, of unit length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

Kernel = Callable[[Tensor, Tensor], Tensor]
CHUNK = 4096
AT_ONCE = 4096  # up to this many pictures, their kernel matrix is kept for the intervals


class Discrepancy(NamedTuple):
    """A figure, and the values of it over pictures drawn again; none for large sets."""

    value: float
    draws: np.ndarray | None


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """KID's kernel, ``(x y / D + 1)^3``."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Tensor, y: Tensor, sigma: float = 10.0) -> Tensor:
    """CMMD's kernel, ``exp(-|x - y|^2 / (2 sigma^2))``."""
    lengths = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return torch.exp(-(lengths - 2 * x @ y.T) / (2 * sigma**2))


def kid(
    drawn: Tensor | np.ndarray,
    real: Tensor | np.ndarray,
    subsets: int = 100,
    subset_size: int = 1000,
    samples: int = 200,
    seed: int = 0,
) -> Discrepancy:
    """Kernel inception distance: the unbiased squared discrepancy, the mean over subsets.

    Of at most ``subset_size`` pictures it is one estimate of all of the drawn against all of the
    real ones, without subsets.

    Args:
        drawn: (N, D) features.
        real: (M, D) features.
        samples: of the bootstrap over drawn pictures; none above 4096 of them.
    """
    x, y = _pair(drawn, real)
    draws = _bootstrap(x, y, polynomial, True, samples, seed)
    if len(x) <= subset_size:
        return Discrepancy(_discrepancy(x, y, polynomial, unbiased=True), draws)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        a, b = (
            z[generator.choice(len(z), min(subset_size, len(z)), replace=False)] for z in (x, y)
        )
        values.append(_discrepancy(a, b, polynomial, unbiased=True))
    return Discrepancy(float(np.mean(values)), draws)


def cmmd(
    drawn: Tensor | np.ndarray, real: Tensor | np.ndarray, samples: int = 200, seed: int = 0
) -> Discrepancy:
    """CLIP-MMD: the squared discrepancy with its diagonal, times 1000, of features of unit length.

    Args:
        drawn: (N, D) features.
        real: (M, D) features.
        samples: of the bootstrap over drawn pictures; none above 4096 of them.
    """
    x, y = (normalize(z, dim=1) for z in _pair(drawn, real))
    draws = _bootstrap(x, y, gaussian, False, samples, seed)
    return Discrepancy(
        1000 * _discrepancy(x, y, gaussian, unbiased=False),
        None if draws is None else 1000 * draws,
    )


def _pair(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    x, y = (torch.as_tensor(z).detach().cpu().double() for z in (a, b))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"features have shapes {tuple(x.shape)} and {tuple(y.shape)}; allowed are at least two "
            "rows each, of one network"
        )
    return x, y


def _total(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """The sum of the kernel over all pairs."""
    return float(sum(kernel(a, b).sum() for a in x.split(CHUNK) for b in y.split(CHUNK)))


def _own(x: Tensor, kernel: Kernel, unbiased: bool) -> float:
    """The mean of the kernel over pairs of one set; unbiased without each row's own pair."""
    total, n = _total(x, x, kernel), len(x)
    if not unbiased:
        return total / n**2
    return (total - float(_diagonal(x, kernel).sum())) / (n * (n - 1))


def _diagonal(x: Tensor, kernel: Kernel) -> Tensor:
    return torch.cat([kernel(row[None], row[None])[0] for row in x])


def _discrepancy(x: Tensor, y: Tensor, kernel: Kernel, unbiased: bool) -> float:
    across = _total(x, y, kernel) / (len(x) * len(y))
    return _own(x, kernel, unbiased) + _own(y, kernel, unbiased) - 2 * across


def _bootstrap(
    x: Tensor, y: Tensor, kernel: Kernel, unbiased: bool, samples: int, seed: int
) -> np.ndarray | None:
    """The discrepancy with the rows of x drawn again: of a kernel matrix, weighted by how often."""
    n = len(x)
    if not samples or n > AT_ONCE:
        return None
    generator = np.random.default_rng(seed)
    rows = generator.integers(n, size=(samples, n))
    weights = torch.from_numpy(np.stack([np.bincount(row, minlength=n) for row in rows])).double()
    matrix = kernel(x, x)
    own = ((weights @ matrix) * weights).sum(dim=1)
    pairs = n**2
    if unbiased:
        own, pairs = own - weights @ matrix.diagonal(), n * (n - 1)
    across = sum(kernel(x, part).sum(dim=1) for part in y.split(CHUNK)) / len(y)
    other = _own(y, kernel, unbiased)
    return (own / pairs + other - 2 * weights @ across / n).numpy()
