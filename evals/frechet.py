"""The Frechet distance between two sets of features, in float64 throughout.

FID is this distance on features of Inception (Heusel et al. 2017, arXiv:1706.08500, equation 6),
FD on those of any other network. The trace of the matrix square root is taken from symmetric
eigenvalues: ``tr sqrt(A B)`` is the sum of the square roots of the eigenvalues of ``L' B L``
where ``A = L L'``. This is several times faster than a general matrix square root or general
eigenvalues, and keeps its digits where those lose them: with dead features, and with fewer
pictures than features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean (D,), covariance (D, D) with ``count - 1`` below, both float64, and ``count`` rows."""

    mean: Tensor
    covariance: Tensor
    count: int

    @classmethod
    def of(cls, features: Tensor | np.ndarray) -> Moments:
        """The moments of (N, D) features, N at least 2."""
        streamed = Streamed()
        streamed.add(features)
        return streamed.moments()

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read the ``mu`` and ``sigma`` of an npz, as pytorch-fid, EDM2 and ADM write them.

        Raises:
            ValueError: the file has no such arrays, or their shapes do not fit.
        """
        with np.load(path) as data:
            if not {"mu", "sigma"} <= set(data.files):
                raise ValueError(
                    f"statistics {path} hold {', '.join(data.files)}; needed are mu and sigma"
                )
            mean, covariance = (torch.from_numpy(data[k]).double() for k in ("mu", "sigma"))
            count = int(data["count"]) if "count" in data.files else 0
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"statistics {path} have mu of shape {tuple(mean.shape)} and sigma of "
                f"{tuple(covariance.shape)}; allowed are (D,) and (D, D)"
            )
        return cls(mean, covariance, count)

    def save(self, path: str | Path, **more: np.ndarray) -> None:
        """Write ``mu``, ``sigma``, ``count`` and whatever else is named."""
        arrays: dict[str, Any] = {
            "mu": self.mean.numpy(), "sigma": self.covariance.numpy(), "count": self.count, **more,
        }  # fmt: skip
        np.savez_compressed(path, **arrays)


class Streamed:
    """Moments of features that come in batches; holds D x D numbers, not N x D."""

    def __init__(self) -> None:
        self.count, self._mean, self._scatter = 0, torch.empty(0), torch.empty(0)

    def add(self, features: Tensor | np.ndarray) -> None:
        """Add (N, D) features.

        Raises:
            ValueError: they are not two-dimensional, have another D than before, or are not finite.
        """
        x = torch.as_tensor(features).detach().cpu().double()
        if x.ndim != 2 or (self.count and x.shape[1] != len(self._mean)):
            wanted = f"(N, {len(self._mean)})" if self.count else "(N, D)"
            raise ValueError(f"features have shape {tuple(x.shape)}; allowed is {wanted}")
        if not x.isfinite().all():
            row = int((~x.isfinite()).any(dim=1).nonzero()[0])
            raise ValueError(f"features of picture {self.count + row} are NaN or infinite")
        if not len(x):
            return
        if not self.count:
            self._mean = torch.zeros(x.shape[1], dtype=torch.float64)
            self._scatter = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        total = self.count + len(x)
        centre = x.mean(dim=0)
        moved = centre - self._mean
        x = x - centre
        self._scatter.addmm_(x.T, x)
        self._scatter.addr_(moved, moved, alpha=self.count * len(x) / total)
        self._mean += moved * (len(x) / total)
        self.count = total

    def moments(self) -> Moments:
        """What was added so far.

        Raises:
            ValueError: fewer than two rows were added.
        """
        if self.count < 2:
            raise ValueError(f"features of {self.count} pictures; needed are at least 2")
        return Moments(self._mean.clone(), self._scatter / (self.count - 1), self.count)


def frechet_distance(a: Moments, b: Moments) -> float:
    """``|mu_a - mu_b|^2 + tr(S_a + S_b - 2 sqrt(S_a S_b))``.

    Raises:
        ValueError: the two have different numbers of features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"statistics have {len(a.mean)} and {len(b.mean)} features; they must be of one network"
        )
    roots = torch.linalg.eigvalsh(_between(a.covariance, b.covariance)).clamp(min=0).sqrt()
    traces = a.covariance.trace() + b.covariance.trace()
    return float((a.mean - b.mean).square().sum() + traces - 2 * roots.sum())


def _between(a: Tensor, b: Tensor) -> Tensor:
    """``L' b L`` for some L with ``L L' = a``; symmetric, with the eigenvalues of ``a b``."""
    factor, failed = torch.linalg.cholesky_ex(a)
    if failed:  # not of full rank: the directions without spread carry nothing
        values, vectors = torch.linalg.eigh(a)
        kept = values > values[-1] * len(a) * torch.finfo(a.dtype).eps
        factor = vectors[:, kept] * values[kept].sqrt()
    return factor.T @ b @ factor
