"""The rescaling that QwenImage and Lumina2 put behind classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..engine.guider import Post
from ..engine.predictions import Prediction, Query
from ..engine.state import Rows
from ..engine.tensors import upcast


@dataclass(frozen=True)
class KeepNorm(Post):
    """Give each vector along the output's last dimension the norm of the positive prediction's.

    Diffusers does this in QwenImage, whose last dimension holds a token's channels, and as
    Lumina2's ``cfg_normalization``, whose last dimension is the width. A guider replaces it;
    ``CFG(4) | KeepNorm()`` is what those pipelines do by themselves.
    """

    formula: ClassVar[str] = "g |c| / |g|, of each vector along the last dimension"
    works_on: ClassVar[str] = "output"

    def __call__(self, q: Query, positive: Prediction, guided: Prediction, state: Rows) -> Tensor:
        wanted, output = upcast(positive.output), upcast(guided.output)
        norm = output.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return output * (wanted.norm(dim=-1, keepdim=True) / norm)
