"""Rewards that need no network: brightness, saturation, a colour."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Brightness(nn.Module):
    """The mean luma, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), in [0, 1]."""

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        red, green, blue = images.mean(dim=(2, 3)).unbind(dim=1)
        return 0.299 * red + 0.587 * green + 0.114 * blue


class Saturation(nn.Module):
    """The mean over pixels of max - min of the channels (HSV's chroma), in [0, 1].

    Chroma rather than HSV's S, whose gradient grows without bound at black.
    """

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (images.amax(dim=1) - images.amin(dim=1)).mean(dim=(1, 2))


class Colour(nn.Module):
    """Minus the mean square distance of the pixels to a colour: 0 where the picture is all of it.

    Args:
        red, green, blue: in [0, 1].

    Raises:
        ValueError: one of them is not.
    """

    def __init__(self, red: float = 1.0, green: float = 0.0, blue: float = 0.0) -> None:
        super().__init__()
        self.target: Tensor
        for name, value in (("red", red), ("green", green), ("blue", blue)):
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"colour: {name} is {value!r}; allowed is a number from 0 to 1")
        self.register_buffer("target", torch.tensor([red, green, blue]).view(1, 3, 1, 1))

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return -(images - self.target).square().mean(dim=(1, 2, 3))
