"""Transformers of joint attention, in which picture and text see each other."""

from __future__ import annotations

from typing import Any

import tiny
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)

from .parts import (
    WIDTH,
    Rows,
    Specimen,
    caller,
    embedded,
    fixed,
    generators,
    pooled,
    sharpen,
    textless,
)
from .stable_diffusion import from_picture


def sd3(kind: Any, vae: Any = None) -> Any:
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16,
        pooled_projection_dim=WIDTH, pos_embed_max_size=8,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    if vae:
        vae.register_to_config(shift_factor=0.06)
    return textless(kind, "_2", "_3", transformer=transformer, scheduler=scheduler, vae=vae)


def sd3_inputs(rows: Rows) -> dict[str, Any]:
    return {**embedded(rows), **pooled(rows), "latents": fixed(rows, 4, 8, 8)}


def sd3_picture_inputs(rows: Rows) -> dict[str, Any]:
    picture = {**from_picture(rows), "height": 16, "width": 16}
    del picture["prompt"]
    return {**embedded(rows), **pooled(rows), **picture}


def auraflow() -> Any:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16,
        pos_embed_max_size=64,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    sharpen(transformer, 3, "blocks")
    return textless(AuraFlowPipeline, transformer=transformer, scheduler=scheduler)


def auraflow_inputs(rows: Rows) -> dict[str, Any]:
    inputs = {"latents": fixed(rows, 4, 8, 8), "height": 64, "width": 64}
    return {**embedded(rows, "prompt_attention_mask"), **inputs}


def flux(guidance_embeds: bool = False) -> Any:
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH,
        axes_dims_rope=(2, 2, 4), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return textless(FluxPipeline, "_2", transformer=transformer, scheduler=scheduler)


def flux_inputs(rows: Rows) -> dict[str, Any]:
    """4 x 4 packed latents."""
    inputs = {"latents": fixed(rows, 16, 16), "height": 64, "width": 64}
    return {**embedded(rows), **pooled(rows), **inputs}


def qwen_image() -> Any:
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    sharpen(transformer, 3, "attn")
    return textless(QwenImagePipeline, transformer=transformer, scheduler=scheduler)


def qwen_image_inputs(rows: Rows) -> dict[str, Any]:
    inputs = {"latents": fixed(rows, 16, 16), "height": 64, "width": 64}
    return {**embedded(rows, "prompt_embeds_mask"), **inputs}


def cogview4() -> Any:
    transformer = CogView4Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, text_embed_dim=WIDTH, time_embed_dim=8, condition_dim=4,
        rope_axes_dim=(8, 8),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
    )
    sharpen(transformer, 3, "attn")
    return textless(CogView4Pipeline, transformer=transformer, scheduler=scheduler)


def cogview4_inputs(rows: Rows) -> dict[str, Any]:
    """Generators, not latents: the pipeline's own latents are float32 whatever its weights are."""
    return {**embedded(rows), "generator": generators(rows)}


SPECIMENS = {
    "sd3": Specimen(lambda: sd3(StableDiffusion3Pipeline), caller(sd3_inputs)),
    "sd3-img2img": Specimen(
        lambda: sd3(StableDiffusion3Img2ImgPipeline, tiny.vae()), caller(sd3_picture_inputs)
    ),
    "auraflow": Specimen(auraflow, caller(auraflow_inputs)),
    "flux": Specimen(flux, caller(flux_inputs, "true_cfg_scale")),
    "qwen-image": Specimen(qwen_image, caller(qwen_image_inputs, "true_cfg_scale")),
    "cogview4": Specimen(cogview4, caller(cogview4_inputs)),
    "flux-embedded": Specimen(lambda: flux(guidance_embeds=True), caller(flux_inputs)),
}
