"""Saturation, contrast and clipping of pictures: what too much guidance does to them.

The papers on guidance report such figures without saying how they are computed; these are this
library's definitions, on 8-bit sRGB values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def saturation(pictures: Sequence[Any]) -> np.ndarray:
    """The mean over pixels of HSV's S, ``(max - min) / max`` and 0 for black; (N,) in [0, 1]."""
    values = []
    for picture in pictures:
        rgb = _pixels(picture)
        high, low = rgb.max(axis=2), rgb.min(axis=2)
        values.append(np.mean((high - low) / np.maximum(high, 1e-12)))
    return np.array(values)


def contrast(pictures: Sequence[Any]) -> np.ndarray:
    """The standard deviation over pixels of BT.601 luma; (N,) in [0, 1]."""
    return np.array([np.std(_pixels(picture) @ LUMA) for picture in pictures])


def clipped(pictures: Sequence[Any]) -> np.ndarray:
    """The share of channel values at most 1 or at least 254 of 255; (N,) in [0, 1]."""
    values = [_pixels(picture) * 255 for picture in pictures]
    return np.array([np.mean((value < 1.5) | (value > 253.5)) for value in values])


def _pixels(picture: Any) -> np.ndarray:
    """A PIL picture or an (H, W, 3) uint8 array, as numbers in [0, 1]."""
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"picture has shape {array.shape} and type {array.dtype}; allowed is (H, W, 3) uint8"
        )
    return array / 255
