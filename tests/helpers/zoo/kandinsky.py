"""Kandinsky: U-Nets of other makers."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22Pipeline,
    UNet2DConditionModel,
    VQModel,
)

from .parts import (
    WIDTH,
    Rows,
    Specimen,
    caller,
    embedded,
    fixed,
    generators,
)


def kandinsky22() -> Any:
    unet = UNet2DConditionModel(
        sample_size=8, out_channels=8, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        addition_embed_type="image", encoder_hid_dim_type="image_proj", encoder_hid_dim=WIDTH,
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    movq = VQModel(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        num_vq_embeddings=8, vq_embed_dim=4,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1)
    return KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq)


def kandinsky22_inputs(rows: Rows) -> dict[str, Any]:
    """The generators are for DDPM, if somebody exchanges the scheduler."""
    return {
        "image_embeds": fixed(rows, WIDTH, kind=1),
        "negative_image_embeds": fixed(rows, WIDTH, kind=2),
        "latents": fixed(rows, 4, 8, 8), "height": 16, "width": 16, "generator": generators(rows),
    }  # fmt: skip


def kandinsky3() -> Any:
    unet = Kandinsky3UNet(
        time_embedding_dim=8, groups=2, attention_head_dim=4, layers_per_block=2,
        block_out_channels=(8, 16), cross_attention_dim=8, encoder_hid_dim=WIDTH,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.02, clip_sample=False)
    absent = {"tokenizer": None, "text_encoder": None, "movq": None}
    return Kandinsky3Pipeline(**absent, unet=unet, scheduler=scheduler)


def kandinsky3_inputs(rows: Rows) -> dict[str, Any]:
    inputs = embedded(rows, "attention_mask")
    return {**inputs, "latents": fixed(rows, 4, 8, 8), "height": 64, "width": 64}


SPECIMENS = {
    "kandinsky22": Specimen(kandinsky22, caller(kandinsky22_inputs)),
    "kandinsky3": Specimen(kandinsky3, caller(kandinsky3_inputs)),
}
