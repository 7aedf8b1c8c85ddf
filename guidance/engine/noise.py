"""Noise of a method's own, the same for an image whatever batch it is in and on any device."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from .context import Context


def checksum(values: Tensor) -> int:
    """A number of 32 bits that follows from all bits of a tensor."""
    return zlib.crc32(values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


class Noise:
    """Unit normal noise that follows from what an image is drawn from.

    So a run can be repeated, and a batch is a loop over its images.

    The context says what that is. Without it, it is the image's first latents, whose last bits
    depend on the device.
    """

    def __init__(self, context: Context | None = None) -> None:
        self._context = Context() if context is None else context
        self._seeds: list[int] = []

    def like(self, value: Tensor, x: Tensor, images: Sequence[int], name: str) -> Tensor:
        """Noise of the shape of ``value`` (images, ...).

        Args:
            x: the latents (B, ...) of all images; if they count, those of the first call do.
            images: whose noise it is.
            name: of this noise; another name gives other noise.
        """
        if not self._seeds:
            self._seeds = list(self._context.seeds) or [checksum(row.float()) for row in x]
        parts = []
        for image in images:  # 32 bits in all: a generator on the CPU takes no more
            seed = zlib.crc32(name.encode(), self._seeds[image])
            generator = torch.Generator("cpu").manual_seed(seed)
            parts.append(torch.randn(value.shape[1:], generator=generator, device="cpu"))
        return torch.stack(parts).to(value.device, value.dtype)
