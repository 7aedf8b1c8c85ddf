"""Tiny pipelines with random weights: the real classes of Diffusers, made in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from guiders import guided
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

SCHEDULERS = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler": (EulerDiscreteScheduler, {"steps_offset": 1}),
    "dpm++": (DPMSolverMultistepScheduler, {"steps_offset": 1}),
    "unipc": (UniPCMultistepScheduler, {"steps_offset": 1}),
    "heun": (HeunDiscreteScheduler, {"steps_offset": 1}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True, "steps_offset": 1}),
}


def scheduler(name: str, prediction_type: str = "epsilon") -> Any:
    kind, options = SCHEDULERS[name]
    return kind(prediction_type=prediction_type, **BETAS, **options)


def tokenizer() -> CLIPTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{a}</w>" for a in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({piece: i for i, piece in enumerate(pieces)}, [], model_max_length=16)


def text_config(**changes: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514, hidden_size=32, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=16, bos_token_id=512, eos_token_id=513,
        pad_token_id=513, **changes,
    )  # fmt: skip


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[8, 8], down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4, norm_num_groups=4,
        sample_size=16,
    )  # fmt: skip


def sd(scheduler_name: str = "ddim", prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """8 x 8 latents, 16 x 16 pixels."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=2,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae(), text_encoder=CLIPTextModel(text_config()), tokenizer=tokenizer(), unet=unet,
        scheduler=scheduler(scheduler_name, prediction_type), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return ready(pipe)


def sdxl(
    scheduler_name: str = "euler", prediction_type: str = "epsilon"
) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=(2, 4),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=64,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80, transformer_layers_per_block=(1, 2),
    )  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        vae=vae(), text_encoder=CLIPTextModel(text_config()), tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(projection_dim=32)),
        tokenizer_2=tokenizer(), unet=unet,
        scheduler=scheduler(scheduler_name, prediction_type), add_watermarker=False,
    )  # fmt: skip
    return ready(pipe)


def ready(pipe: Any) -> Any:
    """Random weights are too alike for two prompts to differ: sharpen the cross attention."""
    pipe.set_progress_bar_config(disable=True)
    for name, parameter in pipe.unet.named_parameters():
        if "attn2.to_v" in name or "attn2.to_out" in name:
            parameter.data.mul_(4)
    return pipe


def latents(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def run(pipe: Any, batch: int = 2, steps: int = 6, seed: int = 0, **options: Any) -> torch.Tensor:
    """Latents (batch, 4, 8, 8) of ``batch`` fixed prompts and fixed noise."""
    prompts = ["red heart", "blue car", "cat", "green apple"][:batch]
    dtype = pipe.unet.dtype
    return pipe(
        prompts, num_inference_steps=steps, latents=latents(batch, seed).to(dtype),
        output_type="latent", **options,
    ).images  # fmt: skip


def attached(
    pipe: Any, guider: Any, run: Callable[..., torch.Tensor] = run, **options: Any
) -> tuple[torch.Tensor, Any]:
    """The latents of a guided run, and the attachment."""
    with guided(pipe, guider, quiet=True) as attachment:
        return run(pipe, **options), attachment
