"""Stable Diffusion and Stable Diffusion XL: prompts go through the tiny CLIP of tiny.py."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from diffusers import (
    ControlNetModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)

from .parts import (
    PROMPTS,
    Rows,
    Specimen,
    caller,
    fixed,
    generators,
    masks,
    pictures,
    sharpen,
)


def prompted(rows: Rows) -> dict[str, Any]:
    return {"prompt": [PROMPTS[row % len(PROMPTS)] for row in rows]}


def from_noise(rows: Rows) -> dict[str, Any]:
    return {**prompted(rows), "latents": fixed(rows, 4, 8, 8)}


def from_picture(rows: Rows) -> dict[str, Any]:
    """The second half of a schedule of twice as many steps."""
    inputs = {"image": pictures(rows), "strength": 0.5, "generator": generators(rows)}
    return {**prompted(rows), **inputs}


def controlled(rows: Rows) -> dict[str, Any]:
    return {**from_noise(rows), "image": pictures(rows)}


def inpainted(rows: Rows) -> dict[str, Any]:
    """From pure noise; the generators are for the encoder of the pictures."""
    inputs = {"mask_image": masks(rows), "strength": 1.0, "generator": generators(rows)}
    return {**controlled(rows), **inputs}


def inpainted_from_picture(rows: Rows) -> dict[str, Any]:
    return {**from_picture(rows), "mask_image": masks(rows)}


def sd(kind: Any, in_channels: int = 4) -> Any:
    """``kind`` of the parts of ``tiny.sd()``."""
    pipe = tiny.sd()
    if in_channels != 4:
        other_unet(pipe, in_channels=in_channels)
    return kind(**pipe.components, requires_safety_checker=False)


def sdxl(kind: Any, in_channels: int = 4) -> Any:
    pipe = tiny.sdxl()
    if in_channels != 4:
        other_unet(pipe, in_channels=in_channels)
    return kind(**pipe.components, add_watermarker=False)


def other_unet(pipe: Any, **changes: Any) -> Any:
    """``pipe`` with a new U-Net whose configuration differs by ``changes``."""
    pipe.unet = UNet2DConditionModel.from_config(pipe.unet.config, **changes)
    return tiny.ready(pipe)


def controlnet(pipe: Any) -> Any:
    """A ControlNet for the U-Net of ``pipe``, with weights in place of its initial zeros."""
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16))
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def sd_controlnet() -> Any:
    pipe = tiny.sd()
    return StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=controlnet(pipe), requires_safety_checker=False
    )


def sdxl_controlnet() -> Any:
    pipe = tiny.sdxl()
    return StableDiffusionXLControlNetPipeline(
        **pipe.components, controlnet=controlnet(pipe), add_watermarker=False
    )


def pag() -> Any:
    pipe = sd(StableDiffusionPAGPipeline)
    sharpen(pipe.unet, 4, "attn1.to_v", "attn1.to_out")
    return pipe


def lcm() -> Any:
    pipe = other_unet(tiny.sd(), time_cond_proj_dim=8)
    sharpen(pipe.unet, 8, "cond_proj")
    parts = {**pipe.components, "scheduler": LCMScheduler()}
    return LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


def lcm_inputs(rows: Rows) -> dict[str, Any]:
    """The generators are for the noise that every step adds."""
    return {**from_noise(rows), "generator": generators([row + 500 for row in rows])}


SPECIMENS = {
    "sd": Specimen(tiny.sd, caller(from_noise)),
    "sdxl": Specimen(tiny.sdxl, caller(from_noise)),
    "sd-img2img": Specimen(lambda: sd(StableDiffusionImg2ImgPipeline), caller(from_picture)),
    "sd-inpaint": Specimen(lambda: sd(StableDiffusionInpaintPipeline, 9), caller(inpainted)),
    "sd-inpaint-4": Specimen(lambda: sd(StableDiffusionInpaintPipeline), caller(inpainted)),
    "sd-controlnet": Specimen(sd_controlnet, caller(controlled)),
    "sdxl-img2img": Specimen(lambda: sdxl(StableDiffusionXLImg2ImgPipeline), caller(from_picture)),
    "sdxl-inpaint": Specimen(
        lambda: sdxl(StableDiffusionXLInpaintPipeline, 9), caller(inpainted_from_picture)
    ),
    "sdxl-controlnet": Specimen(sdxl_controlnet, caller(controlled)),
    "instruct-pix2pix": Specimen(
        lambda: sd(StableDiffusionInstructPix2PixPipeline, 8), caller(controlled)
    ),
    "pag": Specimen(pag, caller(from_noise)),
    "lcm": Specimen(lcm, caller(lcm_inputs)),
}
