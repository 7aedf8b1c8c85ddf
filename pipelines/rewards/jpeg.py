"""Compressibility: how few bits JPEG would need, by a differentiable stand-in."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, unfold

# RGB to luma and the two chroma channels, as JFIF has it.
YCC = (
    (0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312),
)  # fmt: skip


class Jpeg(nn.Module):
    """Minus the bits per pixel that the coefficients of JPEG would take, about.

    The cosine transform of 8 x 8 blocks, halved chroma and the quantisation tables are JPEG's
    (ITU-T T.81, as Pillow's library has them); instead of rounding and Huffman codes a coefficient
    c on a step q costs ``log2(1 + |c| / q)``, and the mean of a block its difference to the last
    block's. Over pictures this is nearly linear in the size of the file (the tests ask for a
    correlation above 0.99). Compressibility (Black et al. 2023, arXiv:2305.13301) is minus that
    size; ``-1*jpeg`` is incompressibility.

    Args:
        quality: of Pillow, 1 to 95.

    Raises:
        ValueError: the quality is not allowed.
    """

    def __init__(self, quality: float = 95) -> None:
        super().__init__()
        self.kernel: Tensor
        self.steps: Tensor
        self.mix: Tensor
        if not isinstance(quality, (int, float)) or not 1 <= quality <= 95:
            raise ValueError(f"jpeg: quality is {quality!r}; allowed is a number from 1 to 95")
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=int(quality))
        tables = Image.open(file).quantization  # type: ignore[attr-defined]
        steps = torch.tensor([tables[0], tables[1], tables[1]], dtype=torch.float32)
        place = torch.arange(8)
        basis = torch.cos((2 * place[None] + 1) * place[:, None] * math.pi / 16) / 2
        basis[0] /= math.sqrt(2)
        kernel = torch.einsum("ux,vy->uvxy", basis, basis).reshape(64, 64)
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("steps", steps, persistent=False)
        self.register_buffer("mix", torch.tensor(YCC), persistent=False)

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        height, width = images.shape[-2:]
        planes = torch.einsum("cr,brhw->bchw", self.mix, images) * 255
        half = avg_pool2d(planes[:, 1:], 2, ceil_mode=True, count_include_pad=False)
        bits = self._bits(planes[:, :1], self.steps[0])
        for i in range(2):
            bits = bits + self._bits(half[:, i : i + 1], self.steps[i + 1])
        return -bits / (height * width)

    def _bits(self, plane: Tensor, steps: Tensor) -> Tensor:
        """(B,) bits of one channel (B, 1, H, W)."""
        right, below = -plane.shape[-1] % 8, -plane.shape[-2] % 8
        blocks = unfold(pad(plane, (0, right, 0, below), mode="replicate"), 8, stride=8)
        found = (self.kernel @ blocks) / steps.view(64, 1)
        means, others = found[:, :1], found[:, 1:]
        change = torch.diff(means, dim=2, prepend=torch.zeros_like(means[..., :1]))
        every = torch.cat([change, others], dim=1)
        return torch.log2(1 + every.abs()).sum(dim=(1, 2))
