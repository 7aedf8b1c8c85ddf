"""What image processors do to a picture, in torch and with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Preprocess(nn.Module):
    """Shortest edge to ``size``, with antialiasing; the middle of it; normalised.

    As ``CLIPImageProcessor``, up to its rounding to 8 bits. Interpolation that leaves [0, 1] is
    clipped, with the gradient of the unclipped value.

    Args:
        size: pixels of the shortest edge.
        mean, std: of each channel.
        mode: ``bicubic`` or ``bilinear``.
        crop: cut the square out of the middle; else the longest edge is at most ``longest``.
        longest: see ``crop``.
    """

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        mode: str = "bicubic",
        crop: bool = True,
        longest: int | None = None,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.size, self.mode, self.crop, self.longest = int(size), mode, crop, longest
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, 3, size, size), or without ``crop`` to its own shape."""
        height, width = images.shape[-2:]
        short, size = min(height, width), self.size
        if not self.crop and self.longest and max(height, width) * size > self.longest * short:
            size = round(self.longest * short / max(height, width))
        shape = [size if side == short else int(size * side / short) for side in (height, width)]
        if shape != [height, width]:
            images = interpolate(images, shape, mode=self.mode, align_corners=False, antialias=True)
            images = images + (images.clamp(0, 1) - images).detach()
        if self.crop:
            top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
            images = images[..., top : top + size, left : left + size]
        return (images - self.mean) / self.std
