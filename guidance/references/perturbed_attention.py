"""PAG: self-attention that looks nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.reference import Perturbation
from .blocks import _where, as_layers


@dataclass(frozen=True)
class PerturbedAttention(Perturbation):
    """Self-attention that looks nowhere: its map is the identity, each token sees only itself.

    Perturbed-Attention Guidance, Ahn et al. 2024 (arXiv:2403.17377), equations 13 to 15; the paper
    uses s = 3, a scale of 4 here. Where text and picture share one attention, the tokens of the
    picture see themselves and the text, and the text sees everything, as in Diffusers'
    ``StableDiffusion3PAGPipeline``. Cross-attention is left alone.

    Attributes:
        layers: the blocks, by number (transformers) or by how their name begins ("mid_block",
            "up_blocks.1", "transformer_blocks.3"); ``None`` is the middle block of a U-Net, as in
            the paper, the blocks 7 to 9 of a transformer, or its middle one if it has no ten.
    """

    formula: ClassVar[str] = "D_0, self-attention sees each token alone"

    layers: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("layers", as_layers(self, self.layers))

    def __str__(self) -> str:
        return f"perturbed attention{_where(' in', self.layers)}"
