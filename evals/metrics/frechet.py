"""The Frechet distance between two sets of features, in float64 throughout.

FID is this distance on features of Inception (Heusel et al. 2017, arXiv:1706.08500, equation 6),
FD on those of any other network. The trace of the matrix square root is taken from symmetric
eigenvalues: ``tr sqrt(A B)`` is the sum of the square roots of the eigenvalues of ``L' B L``
where ``A = L L'``. This is several times faster than a general matrix square root or general
eigenvalues, and keeps its digits where those lose them: with dead features, and with fewer
pictures than features. Moments of few pictures keep their centred features, of which singular
values are exact and cheaper still.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...guidance.engine.files import write


@dataclass(frozen=True)
class Moments:
    """Mean (D,), covariance (D, D) with ``count - 1`` below, both float64, and ``count`` rows.

    Attributes:
        factor: (count, D) with ``factor' factor = covariance``, where there are no more rows than
            features: the centred features over ``sqrt(count - 1)``.
    """

    mean: Tensor
    covariance: Tensor
    count: int
    factor: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor | np.ndarray) -> Moments:
        """The moments of (N, D) features, N at least 2."""
        streamed = Streamed()
        streamed.add(features)
        moments = streamed.moments()
        if moments.count > len(moments.mean):
            return moments
        x = torch.as_tensor(features).detach().cpu().double()
        factor = (x - moments.mean) / math.sqrt(moments.count - 1)
        return cls(moments.mean, moments.covariance, moments.count, factor)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read the ``mu`` and ``sigma`` of an npz, as pytorch-fid, EDM2 and ADM write them.

        Raises:
            ValueError: the file cannot be read, has no such arrays, or their shapes do not fit.
        """
        try:
            with np.load(path) as data:
                if not {"mu", "sigma"} <= set(data.files):
                    raise ValueError(
                        f"statistics {path} hold {', '.join(data.files)}; needed are mu and sigma"
                    )
                mean, covariance = (data[key] for key in ("mu", "sigma"))
                count = int(data["count"]) if "count" in data.files else 0
        except (OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
            raise ValueError(f"statistics {path} cannot be read ({error})") from None
        return cls.checked(mean, covariance, count, str(path))

    @classmethod
    def checked(cls, mean: Any, covariance: Any, count: int, path: str) -> Moments:
        """Moments from arrays of somebody else's file.

        Raises:
            ValueError: their shapes do not fit, or numbers are NaN or infinite.
        """
        mu, sigma = (torch.as_tensor(np.asarray(x)).double() for x in (mean, covariance))
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise ValueError(
                f"statistics {path} have mu of shape {tuple(mu.shape)} and sigma of "
                f"{tuple(sigma.shape)}; allowed are (D,) and (D, D)"
            )
        if not (mu.isfinite().all() and sigma.isfinite().all()):
            raise ValueError(f"statistics {path} hold NaN or infinite; allowed are numbers")
        return cls(mu, sigma, count)

    def save(self, path: str | Path, **more: np.ndarray) -> None:
        """Write ``mu``, ``sigma``, ``count`` and whatever else is named."""
        arrays: dict[str, Any] = {
            "mu": self.mean.numpy(), "sigma": self.covariance.numpy(), "count": self.count, **more,
        }  # fmt: skip
        write(Path(path), lambda file: np.savez_compressed(file, **arrays))


class Streamed:
    """Moments of features that come in batches; holds D x D numbers, not N x D."""

    CHUNK = 1024  # rows that are turned into float64 at a time

    def __init__(self) -> None:
        self.count, self._mean, self._scatter = 0, torch.empty(0), torch.empty(0)

    def add(self, features: Tensor | np.ndarray) -> None:
        """Add (N, D) features.

        Raises:
            ValueError: they are not two-dimensional, have another D than before, or are not finite.
        """
        features = torch.as_tensor(features).detach()
        if features.ndim != 2 or (self.count and features.shape[1] != len(self._mean)):
            wanted = f"(N, {len(self._mean)})" if self.count else "(N, D)"
            raise ValueError(f"features have shape {tuple(features.shape)}; allowed is {wanted}")
        for part in features.split(self.CHUNK):
            x = part.cpu().double()
            if not x.isfinite().all():
                row = int((~x.isfinite()).any(dim=1).nonzero()[0])
                raise ValueError(f"features of picture {self.count + row} are NaN or infinite")
            if len(x):
                centre = x.mean(dim=0)
                x = x - centre
                self._join(len(x), centre, x)

    def merge(self, other: Streamed) -> None:
        """Add all that another has seen, such as another process."""
        if other.count:
            self._join(other.count, other._mean, None, other._scatter)

    def _join(
        self, count: int, mean: Tensor, centred: Tensor | None, scatter: Tensor | None = None
    ) -> None:
        """Chan, Golub & LeVeque 1983: the moments of two sets from those of each."""
        if not self.count:
            self._mean = torch.zeros(len(mean), dtype=torch.float64)
            self._scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        total, moved = self.count + count, mean - self._mean
        if centred is not None:
            self._scatter.addmm_(centred.T, centred)
        elif scatter is not None:
            self._scatter += scatter
        self._scatter.addr_(moved, moved, alpha=self.count * count / total)
        self._mean += moved * (count / total)
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
    traces = a.covariance.trace() + b.covariance.trace()
    return float((a.mean - b.mean).square().sum() + traces - 2 * _root_trace(a, b))


def _root_trace(a: Moments, b: Moments) -> Tensor:
    """``tr sqrt(S_a S_b)``: of factors it is the sum of the singular values of ``F_a F_b'``."""
    if a.factor is not None and b.factor is not None:
        return torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    if a.factor is None and b.factor is not None:
        a, b = b, a
    if a.factor is not None:  # F S F' has the eigenvalues of S_a S_b, and fewer of them
        inner = a.factor @ b.covariance @ a.factor.T
    else:
        root = _factor(a.covariance)
        inner = root.T @ b.covariance @ root
    return torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum()


def _factor(a: Tensor) -> Tensor:
    """Some L with ``L L' = a``."""
    factor, failed = torch.linalg.cholesky_ex(a)
    if failed:  # not of full rank: the directions without spread carry nothing
        values, vectors = torch.linalg.eigh(a)
        kept = values > values[-1] * len(a) * torch.finfo(a.dtype).eps
        factor = vectors[:, kept] * values[kept].sqrt()
    return factor
