"""SLG and STG: the network without some of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.config import choice
from ..engine.reference import Perturbation
from .blocks import _where, as_layers


@dataclass(frozen=True)
class SkipLayers(Perturbation):
    """The network without some of its blocks: what comes in goes out.

    Skip-layer guidance of Stable Diffusion 3.5 Medium (Stability AI 2024, as in Diffusers'
    ``skip_guidance_layers``): blocks 7 to 9, s = 2.8, from 1 to 20 % of the steps, which is a scale
    of 3.8 inside an ``Interval`` or ``StepAG`` here. Spatiotemporal Skip Guidance of videos, Hyung
    et al. 2024 (arXiv:2411.18664): one block, s = 1.

    In a U-Net the blocks are its transformer blocks; its convolutions stay.

    Attributes:
        layers: as for ``PerturbedAttention``.
        what: of a block: "block", all of it; "attention", its self-attention; "feed_forward", that
            of the picture. The last two answer with their input, as in Diffusers' layer skipping.
    """

    formula: ClassVar[str] = "D_0, without some blocks"

    layers: Any = None
    what: str = choice("block", "block", "attention", "feed_forward")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("layers", as_layers(self, self.layers))

    def __str__(self) -> str:
        what = "" if self.what == "block" else f"{self.what.replace('_', '-')} of "
        return f"without {what}{_where('', self.layers).strip() or 'the middle blocks'}"
