"""Pipelines in the shapes of well-known models: random weights, no text encoders, no downloads.

What they draw is noise; what a step of them costs, in time and memory, is what the model costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor

Made = tuple[Any, dict[str, Any]]  # a pipeline, and what it is called with


def build(
    name: str,
    device: str,
    dtype: torch.dtype = torch.bfloat16,
    batch: int = 1,
    tiny: bool = False,
    decodes: bool = False,
) -> Made:
    """The pipeline ``name``, and the inputs of a call that asks for guidance.

    Args:
        name: one of ``NAMES``.
        batch: images, each with a prompt.
        tiny: as many layers and channels as it takes to run at all, and 64 pixels.
        decodes: with an autoencoder, for SD 1.5 and SDXL; without one latents are the result.
    """
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []), made_in(device, dtype):
        torch.manual_seed(0)
        pipe, inputs = NAMES[name](batch, tiny, decodes)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe, {**inputs, "output_type": "pt" if decodes else "latent"}


@contextmanager
def made_in(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Parameters and random numbers are made there, and in that type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def prompts(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Embeddings of prompts and of negative prompts."""
    found = {name: torch.randn(shape) for name, shape in shapes.items()}
    return found | {f"negative_{name}": 0.5 * value for name, value in found.items()}


def scheduler(kind: Any, **options: Any) -> Any:
    """As pipelines have it: what a scheduler computes when it is made stays on the host."""
    with made_in("cpu", torch.float32):
        return kind(**options)


def euler() -> EulerDiscreteScheduler:
    return scheduler(
        EulerDiscreteScheduler, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        steps_offset=1,
    )  # fmt: skip


def autoencoder(tiny: bool) -> AutoencoderKL:
    widths = [8, 8, 8, 8] if tiny else [128, 256, 512, 512]
    vae = AutoencoderKL(
        block_out_channels=widths, layers_per_block=1 if tiny else 2, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4 if tiny else 32,
    )  # fmt: skip
    vae.enable_gradient_checkpointing()
    return vae


def sd15(batch: int, tiny: bool, decodes: bool) -> Made:
    """512 pixels."""
    side = 8 if tiny else 64
    small: dict[str, Any] = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=side, cross_attention_dim=768, attention_head_dim=8, **(small if tiny else {})
    )
    pipe = StableDiffusionPipeline(
        unet=unet, vae=autoencoder(tiny) if decodes else None, scheduler=euler(), text_encoder=None,
        tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    size = {"height": 8 * side, "width": 8 * side, "latents": torch.randn(batch, 4, side, side)}
    return pipe, {**prompts(prompt_embeds=(batch, 77, 768)), **size, "guidance_scale": 5.0}


def sdxl(batch: int, tiny: bool, decodes: bool) -> Made:
    """1024 pixels."""
    side = 8 if tiny else 128
    unet = UNet2DConditionModel(
        sample_size=side, block_out_channels=(8, 16, 16) if tiny else (320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1 if tiny else (1, 2, 10), norm_num_groups=4 if tiny else 32,
        attention_head_dim=2 if tiny else (5, 10, 20), cross_attention_dim=2048,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        unet=unet, vae=autoencoder(tiny) if decodes else None, scheduler=euler(), text_encoder=None,
        text_encoder_2=None, tokenizer=None, tokenizer_2=None, add_watermarker=False,
    )  # fmt: skip
    told = prompts(prompt_embeds=(batch, 77, 2048), pooled_prompt_embeds=(batch, 1280))
    size = {"height": 8 * side, "width": 8 * side, "latents": torch.randn(batch, 4, side, side)}
    return pipe, {**told, **size, "guidance_scale": 5.0}


def sd3(batch: int, tiny: bool, decodes: bool) -> Made:
    """SD3 medium, 1024 pixels."""
    side, heads = (8, 2) if tiny else (128, 24)
    transformer = SD3Transformer2DModel(
        sample_size=side, patch_size=2, in_channels=16, out_channels=16, pos_embed_max_size=192,
        num_layers=2 if tiny else 24, attention_head_dim=64, num_attention_heads=heads,
        joint_attention_dim=4096, caption_projection_dim=64 * heads, pooled_projection_dim=2048,
    )  # fmt: skip
    pipe = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0),
        vae=None, text_encoder=None, text_encoder_2=None, text_encoder_3=None, tokenizer=None,
        tokenizer_2=None, tokenizer_3=None,
    )  # fmt: skip
    told = prompts(prompt_embeds=(batch, 333, 4096), pooled_prompt_embeds=(batch, 2048))
    size = {"height": 8 * side, "width": 8 * side, "latents": torch.randn(batch, 16, side, side)}
    return pipe, {**told, **size, "guidance_scale": 5.0}


def flux(batch: int, tiny: bool, decodes: bool) -> Made:
    """Flux, 1024 pixels, with true CFG: a pass for each prompt."""
    side, heads = (4, 2) if tiny else (64, 24)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1 if tiny else 19,
        num_single_layers=1 if tiny else 38, attention_head_dim=128, num_attention_heads=heads,
        joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=True,
    )  # fmt: skip
    pipe = FluxPipeline(
        transformer=transformer, scheduler=scheduler(FlowMatchEulerDiscreteScheduler), vae=None,
        text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None,
    )  # fmt: skip
    told = prompts(prompt_embeds=(batch, 512, 4096), pooled_prompt_embeds=(batch, 768))
    size = {"height": 16 * side, "width": 16 * side, "latents": torch.randn(batch, side**2, 64)}
    return pipe, {**told, **size, "guidance_scale": 3.5, "true_cfg_scale": 4.0}


def wan(batch: int, tiny: bool, decodes: bool) -> Made:
    """Wan 2.1 1.3B, 81 frames of 480 x 832 pixels, a pass for each prompt."""
    frames, height, width = (5, 64, 64) if tiny else (81, 480, 832)
    transformer = WanTransformer3DModel(
        num_attention_heads=1 if tiny else 12, attention_head_dim=128, in_channels=16,
        out_channels=16, text_dim=4096, freq_dim=256, ffn_dim=64 if tiny else 8960,
        num_layers=1 if tiny else 30,
    )  # fmt: skip
    solver = scheduler(
        UniPCMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=3.0,
    )  # fmt: skip
    pipe = WanPipeline(
        transformer=transformer, scheduler=solver, vae=None, text_encoder=None, tokenizer=None
    )
    size = {"height": height, "width": width, "num_frames": frames}
    shape = (batch, 16, 1 + (frames - 1) // 4, height // 8, width // 8)
    latents = torch.randn(shape, dtype=torch.float32)
    told = prompts(prompt_embeds=(batch, 512, 4096))
    return pipe, {**told, **size, "latents": latents, "guidance_scale": 5.0}


NAMES: dict[str, Callable[[int, bool, bool], Made]] = {
    "sd15": sd15, "sdxl": sdxl, "sd3": sd3, "flux": flux, "wan": wan
}  # fmt: skip
