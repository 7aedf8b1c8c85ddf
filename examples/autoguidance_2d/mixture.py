"""The exact distribution of the two-dimensional example: two trees of Gaussians.

After Karras et al. 2024 (arXiv:2406.02507). Each class is a fractal tree of 127 branches, each
branch eight Gaussians in a row. Density and score are known exactly at every noise level, so that a
network's errors are its own, and its samples are judged without another network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

DEPTH = 7  # generations of branches
SEED = 2
ORIGIN = np.array([0.0030, 0.0325])
SCALE = np.array([1.3136, 1.3844])  # both classes together then have mean 0 and spread 0.5
ALONG = torch.linspace(-0.43, 0.43, 8, dtype=torch.float64)  # of a branch, from its middle
CLASSES = "AB"
PEAK = 2.8983  # the highest log density of class A, on 400 x 400 points of [-0.9, 1.5]^2
OUTLINE = PEAK - 2.12**2  # the log density at the edge of class A


def branches() -> Iterator[tuple[str, int, float, np.ndarray, np.ndarray, np.ndarray]]:
    """(class, depth, weight, middle (2,), span (2,), covariance (2, 2)) of all 254 branches.

    One stream of random numbers makes both trees: a branch draws its length, then an angle before
    each of its two children. The last generation draws angles too, for children that do not grow.
    """
    random = np.random.RandomState(SEED)

    def grow(
        name: str, depth: int, position: np.ndarray, angle: float
    ) -> Iterator[tuple[str, int, float, np.ndarray, np.ndarray, np.ndarray]]:
        if depth == DEPTH:
            return
        direction = np.array([math.cos(angle), math.sin(angle)])
        length = 0.292 * 0.8**depth * (1 + 0.2 * random.randn())
        across = 0.2 * 0.8**depth / length  # the thickness, relative to the spread along the branch
        ridge = np.outer(direction, direction)
        size = 0.06 * length * SCALE
        covariance = (ridge + (np.eye(2) - ridge) * across**2) * np.outer(size, size)
        span = direction * length
        middle = (position + span / 2) * SCALE
        yield name, depth, length * 0.5**depth, middle, span * SCALE, covariance
        for side in (1, -1):
            turn = side * 0.7**depth * (1 + 0.2 * random.randn())
            yield from grow(name, depth + 1, position + span, angle + turn)

    yield from grow("A", 0, ORIGIN, math.pi / 4)
    yield from grow("B", 0, ORIGIN, math.pi * 5 / 4)


class Mixture(nn.Module):
    """p(x) of the classes, and its exact density and score after noise of any level is added.

    It is a denoiser without error, ``mixture(x, sigma) -> x0``.

    The eight Gaussians of a branch share their covariance and lie on a line, so that all work but
    the softmax is done per branch, along the axes of its covariance, where noise adds to variances.

    Args:
        classes: "A", "B" or "AB".
        dtype: float32 is enough for training.
    """

    def __init__(self, classes: str = "A", dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        if not classes or set(classes) - set(CLASSES):
            raise ValueError(f"classes is {classes!r}; allowed is 'A', 'B' or 'AB'")
        chosen = [row[1:] for row in branches() if row[0] in classes]
        depth, weight, middle, span, covariance = (
            torch.from_numpy(np.stack([np.asarray(value) for value in column]))
            for column in zip(*chosen, strict=True)
        )
        self.dtype = dtype
        self.depth = depth
        self.weight = (weight / weight.sum()).to(dtype)
        self.middle = middle.to(dtype)
        self.span = span.to(dtype)
        variance, axes = torch.linalg.eigh(covariance)
        self.variance = variance.to(dtype)  # (branches, 2)
        self.axes = axes.to(dtype)  # (branches, 2, 2), columns
        self.along = ALONG.to(dtype)
        self._flat_axes = self.axes.transpose(0, 1).reshape(2, -1).contiguous()
        self._span = torch.einsum("bi,bij->bj", self.span, self.axes)
        self._middle = torch.einsum("bi,bij->bj", self.middle, self.axes)
        self._log_weight = (self.weight / len(self.along)).log() - math.log(2 * math.pi)

    def __len__(self) -> int:
        return len(self.weight)

    def _terms(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Log weight times density (N, branches, 8); offset and precision (N, branches, 2)."""
        x = x.to(self.dtype)
        noise = torch.as_tensor(sigma, dtype=self.dtype).reshape(-1, 1, 1) ** 2
        precision = 1 / (self.variance + noise)
        offset = (x @ self._flat_axes).view(len(x), -1, 2) - self._middle
        scaled = precision * self._span
        square = (precision * offset * offset).sum(-1)
        cross = (scaled * offset).sum(-1)
        curve = (scaled * self._span).sum(-1)
        base = self._log_weight + 0.5 * (precision.prod(-1).log() - square)
        t = self.along
        logs = torch.addcmul(base[..., None], cross[..., None], t)
        logs.addcmul_(curve[..., None], t * t, value=-0.5)
        return logs, offset, precision

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """log p(x; sigma), (N,), of points (N, 2); sigma is one number or (N,)."""
        parts = [self._terms(*rows)[0].flatten(1).logsumexp(1) for rows in _slices(x, sigma)]
        return torch.cat(parts)

    def score(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The gradient of ``log_density`` in x, (N, 2)."""
        parts = []
        for rows in _slices(x, sigma):
            logs, offset, precision = self._terms(*rows)
            share = torch.softmax(logs.flatten(1), 1).view(logs.shape)
            moment = torch.stack([share.sum(-1), share @ self.along], -1)  # (N, branches, 2)
            pull = precision * (moment[..., :1] * offset - moment[..., 1:] * self._span)
            parts.append(-pull.flatten(1) @ self._flat_axes.T)
        return torch.cat(parts)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The mean of the clean points behind x (N, 2): ``x + sigma^2 * score``."""
        level = torch.as_tensor(sigma, dtype=self.dtype).reshape(-1, 1)
        return x + level**2 * self.score(x, sigma)

    def shares(self, x: Tensor) -> Tensor:
        """The posterior of the branches given clean points (N, 2): (N, branches)."""
        parts = []
        for rows in _slices(x, 0.0):
            logs = self._terms(*rows)[0]
            parts.append(torch.softmax(logs.flatten(1), 1).view(logs.shape).sum(-1))
        return torch.cat(parts)

    def sample(
        self, count: int, sigma: Tensor | float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Points (count, 2) of p(x; sigma); sigma is one number or (count,)."""
        branch = torch.multinomial(self.weight, count, replacement=True, generator=generator)
        place = torch.randint(len(self.along), (count,), generator=generator)
        normal = torch.randn(2, count, 2, generator=generator, dtype=self.dtype)
        within = self.variance[branch].sqrt() * normal[0]
        clean = self.middle[branch] + self.along[place, None] * self.span[branch]
        clean = clean + torch.einsum("nij,nj->ni", self.axes[branch], within)
        return clean + torch.as_tensor(sigma, dtype=self.dtype).reshape(-1, 1) * normal[1]


def _slices(x: Tensor, sigma: Tensor | float) -> Iterator[tuple[Tensor, Tensor | float]]:
    """Rows of x and of sigma, so few at a time that they stay in the processor's cache."""
    several = isinstance(sigma, Tensor) and sigma.numel() > 1
    for start in range(0, len(x), 512):
        rows = slice(start, start + 512)
        yield x[rows], sigma[rows] if several else sigma
