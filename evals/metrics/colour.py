"""Saturation, contrast and clipping of pictures: what too much guidance does to them.

The papers on guidance report such figures without saying how they are computed; these are this
library's definitions, on 8-bit sRGB values.
"""

from __future__ import annotations

import numpy as np

from ..storage.pictures import Picture, Pictures

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


WHITE = 0.9  # a pixel is white where none of its channels is below this


def saturation(pictures: Pictures, skip_white: bool = False) -> np.ndarray:
    """The mean over pixels of HSV's S, ``(max - min) / max`` and 0 for black; (N,) in [0, 1].

    Args:
        pictures: PIL pictures or (H, W, 3) uint8 arrays.
        skip_white: leave white pixels out: the ground of an icon says nothing about guidance. A
            picture that is all white counts as 0.
    """
    values = []
    for picture in pictures:
        rgb = _pixels(picture, skip_white)
        high, low = rgb.max(axis=1, initial=0), rgb.min(axis=1, initial=1)
        values.append(_mean((high - low) / np.maximum(high, 1e-12)))
    return np.array(values)


def contrast(pictures: Pictures) -> np.ndarray:
    """The standard deviation over pixels of BT.601 luma; (N,) in [0, 1]."""
    return np.array([np.std(_pixels(picture) @ LUMA) for picture in pictures])


def clipped(pictures: Pictures, skip_white: bool = False) -> np.ndarray:
    """The share of channel values at most 1 or at least 254 of 255; (N,) in [0, 1].

    Args:
        pictures: PIL pictures or (H, W, 3) uint8 arrays.
        skip_white: leave white pixels out, as in ``saturation``.
    """
    values = [_pixels(picture, skip_white) * 255 for picture in pictures]
    return np.array([_mean((value < 1.5) | (value > 253.5)) for value in values])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _pixels(picture: Picture, skip_white: bool = False) -> np.ndarray:
    """(pixels, 3) numbers in [0, 1] of a PIL picture or an (H, W, 3) uint8 array."""
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"picture has shape {array.shape} and type {array.dtype}; allowed is (H, W, 3) uint8"
        )
    rgb = array.reshape(-1, 3) / 255
    return rgb[rgb.min(axis=1) < WHITE] if skip_white else rgb
