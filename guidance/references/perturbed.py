"""References that are the pipeline's own network, made worse for one prediction.

Each costs one evaluation and no training. Their papers write ``c + s (c - perturbed)``: the paper's
scale s is our scale s + 1, and 1 is off. With classifier-free guidance they add up to three
evaluations: ``CFG(5) + CFG(4, reference=PerturbedAttention())`` is a guidance scale of 5 and s = 3.
What they mean on real modules is in ``pipelines/patch/perturb.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.config import choice, is_number, number, reject
from ..engine.reference import Perturbation


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


@dataclass(frozen=True)
class AdapterOff(Perturbation):
    """The network with its LoRA adapters switched off: ``base + scale (adapted - base)``.

    Between 0 and 1 the scale says how much of the adapters there is in the prediction, above 1 the
    base model is the weak model of autoguidance (Karras et al. 2024, arXiv:2406.02507). Adapters
    of the text encoders stay: the prompt is encoded once.

    Attributes:
        names: the adapters to switch off; ``None`` is all.
    """

    formula: ClassVar[str] = "D_0, without the LoRA"

    names: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (self.names,) if isinstance(self.names, str) else self.names
        if names is not None:
            right = isinstance(names, (tuple, list)) and names
            if not right or not all(isinstance(name, str) and name for name in names):
                raise reject(self, "names", self.names, "a list of names of adapters, or None")
            self._set("names", tuple(names))

    def __str__(self) -> str:
        return "without " + ("adapters" if self.names is None else ", ".join(self.names))


def as_layers(owner: Perturbation, layers: Any) -> tuple[int | str, ...] | None:
    """Blocks by number or name; one alone may be given without brackets.

    Raises:
        ValueError: it is something else, or nothing.
    """
    if layers is None:
        return None
    several = layers if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    found: list[int | str] = []
    for layer in several:
        if isinstance(layer, str) and layer:
            found.append(layer)
        elif is_number(layer) and layer >= 0 and int(layer) == layer:
            found.append(int(layer))
        else:
            found = []
            break
    if not found:
        raise reject(owner, "layers", layers, "numbers or names of blocks, or None")
    return tuple(dict.fromkeys(found))


def _where(word: str, layers: tuple[int | str, ...] | None) -> str:
    return "" if layers is None else f"{word} {', '.join(map(str, layers))}"
