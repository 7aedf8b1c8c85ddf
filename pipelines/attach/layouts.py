"""What cannot be seen of a pipeline's own guidance while it runs, by class.

A pipeline evaluates its two branches in one forward of 2B rows or in two of B. Most of what
differs between pipelines shows in the calls themselves; the rest is here. A class that is not
here is inferred from its first evaluation (``infer_layout``), at the price of evaluating both
branches there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Form:
    """How a pipeline guides by itself.

    Attributes:
        passes: forwards for the two branches, 1 or 2.
        positive_first: is the positive branch the first half, or the first forward?
        sign: -1 where the pipeline negates what it then gives to the scheduler.
        upcast: does it go to float32 before it combines the branches?
        exact: does ``g`` in both branches come out as ``g`` in half precision?
        renorms: does it divide by the norm of what it combined, which must not be zero then?
    """

    passes: int = 1
    positive_first: bool = False
    sign: int = 1
    upcast: bool = False
    exact: bool = True
    renorms: bool = False


ONE = Form()
TWO = Form(passes=2, positive_first=True)
QWEN = Form(passes=2, positive_first=True, renorms=True)

FORMS = {
    "StableDiffusionPipeline": ONE,
    "StableDiffusionImg2ImgPipeline": ONE,
    "StableDiffusionInpaintPipeline": ONE,
    "StableDiffusionControlNetPipeline": ONE,
    "StableDiffusionXLPipeline": ONE,
    "StableDiffusionXLImg2ImgPipeline": ONE,
    "StableDiffusionXLInpaintPipeline": ONE,
    "StableDiffusionXLControlNetPipeline": ONE,
    "StableDiffusion3Pipeline": ONE,
    "StableDiffusion3Img2ImgPipeline": ONE,
    "PixArtSigmaPipeline": ONE,
    "SanaPipeline": Form(upcast=True),
    "DiTPipeline": Form(positive_first=True),
    "HunyuanDiTPipeline": ONE,
    "AuraFlowPipeline": ONE,
    "KandinskyV22Pipeline": ONE,
    "Kandinsky3Pipeline": Form(exact=False),
    "LTXPipeline": Form(upcast=True),
    "CogVideoXPipeline": Form(upcast=True),
    "StableAudioPipeline": ONE,
    "LatentConsistencyModelPipeline": ONE,
    "FluxPipeline": TWO,
    "QwenImagePipeline": QWEN,
    "QwenImageImg2ImgPipeline": QWEN,
    "QwenImageInpaintPipeline": QWEN,
    "QwenImageEditPipeline": QWEN,
    "QwenImageEditPlusPipeline": QWEN,
    "QwenImageEditInpaintPipeline": QWEN,
    "QwenImageControlNetPipeline": QWEN,
    "QwenImageControlNetInpaintPipeline": QWEN,
    "WanPipeline": TWO,
    "Lumina2Pipeline": Form(passes=2, positive_first=True, sign=-1, renorms=True),
    "CogView4Pipeline": TWO,
}

THREE = "it evaluates three branches at a time; allowed are pipelines of one or two"
REFUSED = {
    "Cosmos2TextToImagePipeline": (
        "it turns each branch into a clean image before the other is evaluated; allowed are "
        "pipelines that combine the network's own outputs"
    ),
    "LTX2Pipeline": (
        "it denoises pictures and sound with two schedulers at a time; allowed are pipelines of one"
    ),
    "StableDiffusionInstructPix2PixPipeline": THREE,
    "StableDiffusionXLInstructPix2PixPipeline": THREE,
    "OmniGenPipeline": THREE,
}


def form_of(pipe: Any) -> Form | None:
    """The pipeline's form; ``None`` where it is not known.

    Raises:
        ValueError: the pipeline is known not to work, and why.
    """
    names = [base.__name__ for base in type(pipe).__mro__]
    name = names[0]
    if "PAG" in name:
        raise ValueError(
            f"pipe is a {name}, which perturbs the attention by itself in further branches; "
            f"allowed is {name.replace('PAG', '')} with a guider"
        )
    for base in names:
        if base in REFUSED:
            raise ValueError(f"pipe is a {name}: {REFUSED[base]}")
    if getattr(pipe, "guider", None) is not None or "guider" in getattr(pipe, "config", {}):
        raise ValueError(
            f"pipe is a {name}, which has a place for guiders of its own; allowed is "
            "pipe.guider = to_diffusers(guider, pipe.scheduler)"
        )
    return next((FORMS[base] for base in names if base in FORMS), None)


def check_dtype(pipe: Any, dtype: torch.dtype) -> None:
    """Refuse what the pipeline's arithmetic would spoil.

    Raises:
        ValueError: it does not return what is in both branches, in this precision.
    """
    form = form_of(pipe)
    if form is not None and not form.exact and dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"pipe is a {type(pipe).__name__} in {str(dtype).removeprefix('torch.')}, in which its "
            "(s + 1) c - s u loses digits of any guided prediction; allowed is float32"
        )
