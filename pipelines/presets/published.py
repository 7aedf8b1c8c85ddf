"""Settings that others published for well-known models. None of them was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...guidance import Guider, intents

Guiders = Guider | Sequence[Guider]


@dataclass(frozen=True)
class Published:
    """A published setting for a family of models.

    Attributes:
        family: its usual name.
        pipelines: beginnings of the names of its Diffusers pipelines.
        guider: in the words of the command line.
        source: where it was published, and by whom if not by the method's authors.
    """

    family: str
    pipelines: tuple[str, ...]
    guider: str
    source: str


SDXL, SD, DIT = ("StableDiffusionXL",), ("StableDiffusionPipeline", "StableDiffusionI"), ("DiT",)
PUBLISHED = (
    Published("SDXL", SDXL, "cfg(5)", "Diffusers' default"),
    Published("SD 1.5", SD, "cfg(7.5)", "Diffusers' default"),
    Published("SD3", ("StableDiffusion3",), "cfg(7)", "Diffusers' default"),
    Published("DiT-XL/2", DIT, "cfg(4)", "Diffusers' default"),
    Published(
        "SDXL", SDXL, "cfg+interval(0.28, 5.42)",
        "Kynkaanniemi et al., arXiv:2404.07724, chosen by eye; scales up to 16, 32 Heun steps",
    ),
    Published(
        "DiT-XL/2", DIT, "cfg(2.5)+interval(0.34, 1.02)",
        "Kynkaanniemi et al., arXiv:2404.07724, best FID, 250 steps",
    ),
    Published(
        "DiT-XL/2", DIT, "cfg(4)+interval(0.45, 1.23)",
        "Kynkaanniemi et al., arXiv:2404.07724, best FD-DINOv2, 250 steps",
    ),
    Published(
        "EDM2-S", ("EDM2",), "cfg(2.1)+interval(0.28, 2.91)",
        "Kynkaanniemi et al., arXiv:2404.07724, best FID, 32 Heun steps",
    ),
    Published(
        "EDM2-XXL", ("EDM2",), "cfg(2)+interval(0.19, 1.62)",
        "Kynkaanniemi et al., arXiv:2404.07724, best FID, 32 Heun steps",
    ),
    Published(
        "SDXL", SDXL, "apg(rescale=15, eta=0, momentum=-0.5)",
        "Sadat et al., arXiv:2410.02416, table 10, for latents of 4 x 128 x 128",
    ),
    Published(
        "SD 1.5", SD, "apg(rescale=6.5, eta=0, momentum=-0.5)",
        "a preset of the extension for Forge, not of the paper",
    ),
    Published(
        "HunyuanImage 2.1", ("HunyuanImage",), "apg(10, rescale=10, eta=0, momentum=-0.5)",
        "Diffusers' default after the first steps",
    ),
    Published(
        "SDXL", SDXL, "cfg(7)+adaptive(0.999)",
        "users of ComfyUI: stops after 18 of 50 steps; the paper's 0.991 in eps is for its own "
        "models and stops at once here",
    ),
)  # fmt: skip


def published_for(pipeline: str) -> list[Published]:
    """The published settings for the family of a pipeline, given the name of its class."""
    return [one for one in PUBLISHED if pipeline.startswith(one.pipelines)]


def hints(pipeline: str, wanted: Guiders) -> list[str]:
    """Published settings of the methods that ``wanted`` asks for by intent, a line each."""
    kinds = {text.split()[0].lower() for text in intents(wanted)}
    return [
        f"for {one.family} {one.guider} was published ({one.source}), not measured here"
        for one in published_for(pipeline)
        if any(kind in one.guider for kind in kinds)
    ]
