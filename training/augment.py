"""Pictures varied at random, for the models that judge pictures.

They must judge what a diffusion model draws as well as what artists drew, so that pictures are
moved, turned, blurred as an autoencoder blurs and made noisy. They are not mirrored: an arrow to
the left is not an arrow to the right.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate


def between(low: float, high: float, like: Tensor) -> Tensor:
    """(B, 1, 1, 1) uniform numbers."""
    return torch.empty(len(like), 1, 1, 1, device=like.device).uniform_(low, high)


def move(pictures: Tensor) -> Tensor:
    """Scale by up to 15 %, turn by up to 10 degrees, shift by up to a tenth; white moves in."""
    scale, angle = between(0.85, 1.15, pictures), between(-10, 10, pictures) * math.pi / 180
    shift = [between(-0.2, 0.2, pictures) for _ in range(2)]  # of the half width
    rows = [
        torch.cat([angle.cos() * scale, -angle.sin() * scale, shift[0]], dim=-1),
        torch.cat([angle.sin() * scale, angle.cos() * scale, shift[1]], dim=-1),
    ]
    grid = affine_grid(torch.cat(rows, dim=2)[:, 0], list(pictures.shape), align_corners=False)
    return 1 - grid_sample(1 - pictures, grid, align_corners=False)


def colour(pictures: Tensor) -> Tensor:
    """Change saturation by up to 20 % and contrast about white by up to 15 %."""
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + (pictures - grey) * between(0.8, 1.2, pictures)
    return 1 - (1 - pictures) * between(0.85, 1.15, pictures)


def blur(pictures: Tensor) -> Tensor:
    """Halve the size and double it again, in every second picture."""
    small = interpolate(avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    return torch.where(between(0, 1, pictures) < 0.5, small, pictures)


def noise(pictures: Tensor) -> Tensor:
    """Add Gaussian noise of up to a tenth of half the range."""
    return pictures + torch.randn_like(pictures) * between(0, 0.1, pictures)


def augment(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1], each varied on its own by torch's global generator."""
    return noise(blur(colour(move(pictures)))).clamp(-1, 1)
