"""Noise of a method's own, the same for an image whatever batch it is in."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Unit normal noise that follows from an image's first latents, so that a run can be repeated
    and a batch is a loop over its images."""

    def __init__(self) -> None:
        self._seeds: list[int] = []

    def like(self, value: Tensor, x: Tensor, images: Sequence[int], name: str) -> Tensor:
        """Noise of the shape of ``value`` (images, ...).

        Args:
            x: the latents (B, ...) of all images; those of the first call count.
            images: whose noise it is.
            name: of this noise; another name gives other noise.
        """
        if not self._seeds:
            rows = x.detach().float().cpu().numpy()
            self._seeds = [zlib.crc32(row.tobytes()) for row in rows]
        parts = []
        for image in images:  # 32 bits in all: a generator on the CPU takes no more
            seed = zlib.crc32(name.encode(), self._seeds[image])
            generator = torch.Generator("cpu").manual_seed(seed)
            parts.append(torch.randn(value.shape[1:], generator=generator, device="cpu"))
        return torch.stack(parts).to(value.device, value.dtype)
