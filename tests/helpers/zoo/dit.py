"""Transformers that are told of the text, or of a class, beside the picture."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from diffusers import (
    Cosmos2TextToImagePipeline,
    CosmosTransformer3DModel,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)

from .parts import (
    WIDTH,
    WORDS,
    Rows,
    Specimen,
    caller,
    embedded,
    fixed,
    generators,
    textless,
)


def pixart_sigma() -> Any:
    transformer = PixArtTransformer2DModel(
        sample_size=8, num_layers=2, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, caption_channels=WIDTH, norm_num_groups=4,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    return textless(PixArtSigmaPipeline, transformer=transformer, scheduler=scheduler)


def unbinned(rows: Rows) -> dict[str, Any]:
    inputs = {"negative_prompt": None, "use_resolution_binning": False}
    return {**embedded(rows, "prompt_attention_mask"), **inputs, "latents": fixed(rows, 4, 8, 8)}


def sana() -> Any:
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, sample_size=8, num_layers=2, num_attention_heads=2,
        attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8,
        cross_attention_dim=16, caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return textless(SanaPipeline, transformer=transformer, scheduler=scheduler)


def sana_inputs(rows: Rows) -> dict[str, Any]:
    return {**unbinned(rows), "height": 256, "width": 256}


def dit() -> Any:
    transformer = DiTTransformer2DModel(
        sample_size=8, num_layers=2, num_attention_heads=2, attention_head_dim=8, out_channels=8,
        norm_num_groups=4,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.0001, beta_end=0.02, clip_sample=False)
    return DiTPipeline(transformer=transformer, vae=tiny.vae(), scheduler=scheduler)


def dit_call(pipe: Any, rows: Rows, steps: int, scale: float, **options: Any) -> torch.Tensor:
    """The pipeline always decodes: its latents are taken on their way into the autoencoder."""
    latents: list[torch.Tensor] = []
    handle = pipe.vae.post_quant_conv.register_forward_pre_hook(
        lambda _, inputs: latents.append(inputs[0])
    )
    inputs = {
        "class_labels": [(100 * row + 7) % 1000 for row in rows],
        "generator": generators(rows),
    }
    given = {**inputs, "num_inference_steps": steps, "guidance_scale": scale, "output_type": "pt"}
    try:
        pipe(**{**given, **options})
    finally:
        handle.remove()
    return latents[0] * pipe.vae.config.scaling_factor


def hunyuan_dit() -> Any:
    transformer = HunyuanDiT2DModel(
        sample_size=8, in_channels=4, patch_size=2, num_layers=2, num_attention_heads=2,
        attention_head_dim=8, hidden_size=16, cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH, pooled_projection_dim=16, text_len=WORDS,
        text_len_t5=WORDS,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.018, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type="v_prediction", steps_offset=1, set_alpha_to_one=False,
    )  # fmt: skip
    return textless(
        HunyuanDiTPipeline, "_2", transformer=transformer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def hunyuan_dit_inputs(rows: Rows) -> dict[str, Any]:
    """The second encoder's embeddings are other ones."""
    first = embedded(rows, "prompt_attention_mask")
    second = {name + "_2": value.roll(1, dims=-1) for name, value in first.items()}
    latents = fixed(rows, 4, 8, 8)
    return {**first, **second, "latents": latents, "use_resolution_binning": False}


def lumina2() -> Any:
    transformer = Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=16, num_layers=2, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 2, 2),
        axes_lens=(16, 16, 16), cap_feat_dim=WIDTH,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return textless(Lumina2Pipeline, transformer=transformer, scheduler=scheduler)


def lumina2_inputs(rows: Rows) -> dict[str, Any]:
    return {**embedded(rows, "prompt_attention_mask"), "latents": fixed(rows, 4, 8, 8)}


class Trusting:
    """Stands in for the safety checker, which is a package of its own; it never sees latents."""

    def to(self, *_: Any) -> Trusting:
        return self


def cosmos2() -> Any:
    """Without the padding mask, whose resizing needs torchvision."""
    transformer = CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=12,
        mlp_ratio=2.0, text_embed_dim=WIDTH, adaln_lora_dim=4, max_size=(4, 32, 32),
        extra_pos_embed_type=None, concat_padding_mask=False,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    return textless(
        Cosmos2TextToImagePipeline, transformer=transformer, scheduler=scheduler,
        safety_checker=Trusting(),
    )  # fmt: skip


def cosmos2_inputs(rows: Rows) -> dict[str, Any]:
    latents = fixed(rows, 4, 1, 8, 8)
    return {**embedded(rows), "latents": latents, "height": 64, "width": 64}


SPECIMENS = {
    "pixart-sigma": Specimen(pixart_sigma, caller(unbinned)),
    "sana": Specimen(sana, caller(sana_inputs)),
    "dit": Specimen(dit, dit_call),
    "hunyuan-dit": Specimen(hunyuan_dit, caller(hunyuan_dit_inputs)),
    "lumina2": Specimen(lumina2, caller(lumina2_inputs)),
    "cosmos2": Specimen(cosmos2, caller(cosmos2_inputs)),
}
