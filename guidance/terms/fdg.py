"""Frequency-decoupled guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..engine.config import is_number, number, reject
from ..engine.guider import Term
from ..engine.predictions import Prediction, Query
from ..engine.reference import Negative, Reference
from ..engine.state import Rows
from ..engine.vectors import Number, project

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


@dataclass(frozen=True)
class FDG(Term):
    """Frequency-decoupled guidance: the gap's bands, each with a scale of its own.

    arXiv:2506.19713: a Laplacian pyramid of the predictions, guided level by level. It is linear,
    so that ``x0 = D_c + sum_k (scale_k - 1) * band_k(D_c - D_u)``; with equal scales it is CFG. The
    paper's scales for SDXL are 10 for the high and 5 for the low frequencies. The pyramid is the
    usual one (Burt & Adelson 1983, as in kornia): on the way down blurred by five binomial weights
    and halved, on the way up doubled and blurred again, edges by reflection.

    Attributes:
        scale: of the highest frequencies.
        shares: for each band from high to low frequencies the share of ``scale - 1``; 10 and 5 are
            ``(1, 4/9)``. As many bands as shares; each halves the resolution.
        parallel: weight of the part of each band along D_c's own. With 1 the difference of the
            network's outputs is all that counts; with another, the bands are those of x0.
    """

    formula: ClassVar[str] = (
        "D_c + sum_k (w_k - 1) band_k(D_c - D_u); with parallel not 1 in x0, along band_k(D_c)"
    )
    works_on: ClassVar[str] = "any"

    scale: Any = 10.0
    shares: Any = (1.0, 4 / 9)
    parallel: float = number(1.0, low=0)
    reference: Reference = Negative()

    def __post_init__(self) -> None:
        super().__post_init__()
        several = isinstance(self.shares, (tuple, list))
        shares = tuple(self.shares) if several else (self.shares,)
        if not shares or not all(is_number(share) and share >= 0 for share in shares):
            raise reject(self, "shares", self.shares, "numbers of at least 0, for each band")
        self._set("shares", tuple(float(share) for share in shares))

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Tensor:
        gap = (positive - reference).tensor()
        if gap.dim() < 4 or min(gap.shape[-2:]) < 2 ** (len(self.shares) - 1):
            raise ValueError(
                f"FDG: latents have the shape {tuple(gap.shape[1:])}; allowed are pictures "
                f"(channels, ..., height, width) of at least {2 ** (len(self.shares) - 1)} a side"
            )
        bands = pyramid(gap, len(self.shares))
        if self.parallel != 1:
            axes = pyramid(positive.x0.tensor(), len(self.shares))
            bands = [
                band - ((1 - self.parallel) * project(band, onto=axis)).tensor()
                for band, axis in zip(bands, axes, strict=True)
            ]
        weighted = [share * band for share, band in zip(self.shares, bands, strict=True)]
        return (scale - 1) * collapse(weighted)


def pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """Bands from high to low frequencies, whose ``collapse`` is ``image`` (B, ..., H, W)."""
    bands = []
    for _ in range(levels - 1):
        smaller = _down(image)
        bands.append(image - _up(smaller, image))
        image = smaller
    return [*bands, image]


def collapse(bands: list[Tensor]) -> Tensor:
    """The sum of the bands, at the resolution of the first."""
    image = bands[-1]
    for band in reversed(bands[:-1]):
        image = band + _up(image, band)
    return image


def _down(image: Tensor) -> Tensor:
    """Half the resolution, blurred before."""
    return _resized(_blurred(image), [max(1, side // 2) for side in image.shape[-2:]])


def _up(image: Tensor, like: Tensor) -> Tensor:
    """At the resolution of ``like``, blurred after."""
    return _blurred(_resized(image, like.shape[-2:]))


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, of (B, ..., H, W)."""
    flat = image.flatten(0, -3).unsqueeze(1)
    resized = interpolate(flat, size=list(size), mode="bilinear", align_corners=False)
    return resized.reshape(*image.shape[:-2], *size)


def _blurred(image: Tensor) -> Tensor:
    """By binomial weights along both sides, reflected at the edges.

    A sum of shifted images and no convolution, which a GPU may round to TF32.
    """
    for dim in (-2, -1):
        side = image.shape[dim]
        period = max(1, 2 * (side - 1))
        there = torch.arange(-2, side + 2, device=image.device) % period
        padded = image.index_select(dim, torch.minimum(there, period - there))
        image = torch.zeros_like(image)
        for shift, weight in enumerate(BINOMIAL):
            image = image + weight * padded.narrow(dim, shift, side)
    return image
