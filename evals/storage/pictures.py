"""Pictures as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Picture = Image.Image | np.ndarray
"""A PIL picture, or an (H, W, 3) uint8 array."""
Pictures = Sequence[Picture]


def to_tensor(pictures: Pictures) -> Tensor:
    """PIL pictures or (H, W, 3) uint8 arrays of one size, as (N, 3, H, W) in [-1, 1].

    Raises:
        ValueError: a picture is of another shape or type.
    """
    arrays = [np.asarray(picture) for picture in pictures]
    for index, array in enumerate(arrays):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(
                f"picture {index} has shape {array.shape} and type {array.dtype}; "
                "allowed is (H, W, 3) uint8"
            )
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"picture {index} has shape {array.shape}, picture 0 {arrays[0].shape}; "
                "allowed is one size"
            )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
