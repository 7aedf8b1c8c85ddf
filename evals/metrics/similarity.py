"""How alike two pictures of the same seed are: SSIM, PSNR, LPIPS."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..storage.pictures import Pictures, to_tensor

SAME = 100.0  # decibels that stand for two pictures without a difference


def psnr(pictures: Pictures, others: Pictures) -> np.ndarray:
    """``10 log10(1 / mean squared difference)`` of values in [0, 1]; (N,) decibels, at most 100."""
    x, y = (((to_tensor(z) + 1) / 2).double() for z in (pictures, others))
    error = _same_size(x, y).sub(y).square().mean(dim=(1, 2, 3))
    return (-10 * error.clamp(min=10 ** (-SAME / 10)).log10()).numpy()


def ssim(pictures: Pictures, others: Pictures) -> np.ndarray:
    """Structural similarity (Wang et al. 2004), Gaussian window of 11 and sigma 1.5; (N,).

    Raises:
        ValueError: torchmetrics is not installed, or sizes differ.
    """
    image = _torchmetrics("ssim")
    x, y = ((to_tensor(z) + 1) / 2 for z in (pictures, others))
    values = image.structural_similarity_index_measure(
        _same_size(x, y), y, data_range=1.0, reduction="none"
    )
    return torch.as_tensor(values).reshape(-1).double().numpy()


def lpips(pictures: Pictures, others: Pictures) -> np.ndarray:
    """Learned perceptual distance (Zhang et al. 2018), AlexNet; (N,).

    Raises:
        ValueError: torchmetrics or torchvision, which has the network, is not installed, or its
            weights cannot be fetched.
    """
    _torchmetrics("lpips")
    try:
        from torchmetrics.functional.image.lpips import (
            learned_perceptual_image_patch_similarity as distance,
        )

        x, y = to_tensor(pictures), to_tensor(others)
        pairs = zip(_same_size(x, y).split(1), y.split(1), strict=True)
        return np.array([float(distance(a, b, net_type="alex")) for a, b in pairs])
    except (ImportError, OSError) as error:
        raise ValueError(
            f"metric lpips needs torchvision and its weights of AlexNet ({error}); install "
            "torchvision, and let it fetch them once"
        ) from None


def _torchmetrics(metric: str) -> Any:
    try:
        from torchmetrics.functional import image
    except ImportError as error:
        raise ValueError(
            f"metric {metric} needs torchmetrics ({error}): pip install 'guiders[metrics]'"
        ) from None
    return image


def _same_size(x: Tensor, y: Tensor) -> Tensor:
    if x.shape != y.shape:
        raise ValueError(
            f"pictures are {tuple(x.shape)}, those of the baseline {tuple(y.shape)}; allowed is "
            "one size"
        )
    return x
