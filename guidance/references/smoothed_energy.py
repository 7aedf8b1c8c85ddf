"""SEG: self-attention blurred over the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.config import number
from ..engine.reference import Perturbation
from .blocks import _where, as_layers


@dataclass(frozen=True)
class SmoothedAttention(Perturbation):
    """Self-attention whose weights are blurred over the picture, by blurring its queries.

    Smoothed Energy Guidance, Hong 2024 (arXiv:2408.00760), equation 11 and algorithm 1: logits are
    linear in the queries. The kernel is a Gaussian cut off at three sigma, reflected at the edges,
    over the true height and width of the tokens, in each frame of a video. Queries are
    those that enter the product, after norms and rotary embeddings. Only those of the picture are
    blurred; text and cross-attention are left alone. The paper uses s = 3, a scale of 4 here.

    Attributes:
        blur: sigma of the blur in tokens of the layer; ``None`` is infinite: the mean query.
        layers: as for ``PerturbedAttention``.
    """

    formula: ClassVar[str] = "D_0, queries blurred over the picture"

    blur: float | None = number(None, low=0, open_ends=True, optional=True)
    layers: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("layers", as_layers(self, self.layers))

    def __str__(self) -> str:
        blur = "" if self.blur is None else f", blur {self.blur:g}"
        return f"smoothed attention{_where(' in', self.layers)}{blur}"
