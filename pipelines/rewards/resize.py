"""What image processors do to a picture, in torch and with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Preprocess(nn.Module):
    """Shortest edge to ``size`` (bicubic, with antialiasing), the middle of it, normalised.

    As ``CLIPImageProcessor``, up to its rounding to 8 bits. Gradients of pixels that bicubic
    interpolation takes out of [0, 1] are those of the unclipped ones.

    Args:
        size: pixels of the square that the network sees.
        mean, std: of each channel.
    """

    def __init__(
        self, size: int = 224, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
    ) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, 3, size, size)."""
        height, width = images.shape[-2:]
        if (height, width) != (self.size, self.size):
            short = min(height, width)
            shape = [int(self.size * side / short) for side in (height, width)]
            images = interpolate(images, shape, mode="bicubic", align_corners=False, antialias=True)
            images = images + (images.clamp(0, 1) - images).detach()
            top, left = (shape[0] - self.size) // 2, (shape[1] - self.size) // 2
            images = images[..., top : top + self.size, left : left + self.size]
        return (images - self.mean) / self.std
