"""Tiny pipelines of many kinds with random weights, and one way of running them all.

``pipe = build("flux")``, then ``run("flux", pipe, rows=(0, 1), scale=5)``. A row is a number: it
fixes the prompt, the negative prompt, the noise and, where there is one, the picture, so that a
row is the same alone and in a batch. Every run takes ``steps`` steps, those that start from a
picture as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tiny
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderOobleck,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    ControlNetModel,
    Cosmos2TextToImagePipeline,
    CosmosTransformer3DModel,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22Pipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    VQModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors

Rows = Sequence[int]

PROMPTS = ("red heart", "blue car", "cat", "green apple")


@dataclass(frozen=True)
class Specimen:
    """How to build a tiny pipeline, and how to call it.

    ``call(pipe, rows, steps, scale, **options)`` returns the final latents, a row for each of
    ``rows``.
    """

    build: Callable[[], Any]
    call: Callable[..., torch.Tensor]


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline ``name``, with the same weights every time; torch's own seed is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = ZOO[name].build()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == torch.float32 else pipe.to(dtype)


def run(
    name: str, pipe: Any, rows: Rows = (0, 1), steps: int = 4, scale: float = 5.0, **options: Any
) -> torch.Tensor:
    """The final latents of ``rows``, guided by the pipeline itself; ``options`` go to its call."""
    return ZOO[name].call(pipe, tuple(rows), steps, scale, **options)


def fixed(rows: Rows, *shape: int, kind: int = 0) -> torch.Tensor:
    """Noise (rows, *shape) that depends on each row's number, and on the kind of input it is."""
    seeds = [1000 * kind + row for row in rows]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators(seeds)])


def generators(rows: Rows) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in rows]


def pictures(rows: Rows) -> torch.Tensor:
    return fixed(rows, 3, 16, 16, kind=9).sigmoid()


def masks(rows: Rows) -> torch.Tensor:
    """The left half of the picture for even rows, the upper half for odd ones."""
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, :, :8] = mask[1, :, :8] = 1
    return mask[[row % 2 for row in rows]]


def caller(inputs: Callable[[Rows], dict[str, Any]], scale_name: str = "guidance_scale") -> Any:
    """A ``call`` for a pipeline that takes ``inputs(rows)`` in the dtype of its denoiser."""

    def call(pipe: Any, rows: Rows, steps: int, scale: float, **options: Any) -> torch.Tensor:
        dtype = (pipe.transformer if hasattr(pipe, "transformer") else pipe.unet).dtype
        given = inputs(rows)
        for name, value in given.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                given[name] = value.to(dtype)
        given = {"output_type": "latent", scale_name: scale, **given, **options}
        return pipe(**{"num_inference_steps": round(steps / given.get("strength", 1)), **given})[0]

    return call


# Stable Diffusion and Stable Diffusion XL: prompts go through the tiny CLIP of tiny.py.


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


# Transformers: embeddings stand in for text encoders, and mostly nothing for the autoencoder.

WORDS, WIDTH = 6, 16  # tokens of a prompt, and channels of each


def embedded(rows: Rows, mask: str = "") -> dict[str, Any]:
    """Embeddings of prompt and negative prompt, and masks if ``mask`` tells what they are called.

    By the masks, odd rows are a word shorter, and negative prompts two.
    """
    inputs = {
        "prompt_embeds": fixed(rows, WORDS, WIDTH, kind=1),
        "negative_prompt_embeds": fixed(rows, WORDS, WIDTH, kind=2),
    }
    if mask:
        inputs[mask] = words(WORDS - row % 2 for row in rows)
        inputs["negative_" + mask] = words(WORDS - 2 - row % 2 for row in rows)
    return inputs


def words(lengths: Iterable[int]) -> torch.Tensor:
    return torch.stack([(torch.arange(WORDS) < length).long() for length in lengths])


def pooled(rows: Rows) -> dict[str, Any]:
    return {
        "pooled_prompt_embeds": fixed(rows, WIDTH, kind=3),
        "negative_pooled_prompt_embeds": fixed(rows, WIDTH, kind=4),
    }


def textless(kind: Any, *suffixes: str, **parts: Any) -> Any:
    """``kind`` of ``parts`` without text encoders; their names end in "" and in ``suffixes``."""
    absent = {part + end: None for end in ("", *suffixes) for part in ("text_encoder", "tokenizer")}
    return kind(**{"vae": None, **absent, **parts})


def sharpen(model: Any, by: float, *names: str) -> None:
    """Multiply the weights whose names contain one of ``names``: random ones hear prompts badly."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.data.mul_(by)


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


def ltx() -> Any:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_layers=2, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
        shift_terminal=0.1,
    )  # fmt: skip
    return textless(LTXPipeline, transformer=transformer, scheduler=scheduler)


def ltx_inputs(rows: Rows) -> dict[str, Any]:
    """2 frames of 2 x 2 latents, packed."""
    inputs = {"latents": fixed(rows, 8, 8), "height": 64, "width": 64, "num_frames": 9}
    return {**embedded(rows, "prompt_attention_mask"), **inputs}


def cogvideox() -> Any:
    transformer = CogVideoXTransformer3DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8,
        time_embed_dim=8, text_embed_dim=WIDTH, max_text_seq_length=WORDS, sample_width=4,
        sample_height=4, sample_frames=5,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )  # fmt: skip
    return textless(CogVideoXPipeline, transformer=transformer, scheduler=scheduler)


def cogvideox_inputs(rows: Rows) -> dict[str, Any]:
    return {**embedded(rows), "latents": fixed(rows, 2, 4, 4, 4), "max_sequence_length": WORDS}


def stable_audio() -> Any:
    transformer = StableAudioDiTModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2,
        attention_head_dim=8, num_key_value_attention_heads=1, cross_attention_dim=8,
        time_proj_dim=8, global_states_input_dim=2 * WIDTH, cross_attention_input_dim=WIDTH,
    )  # fmt: skip
    vae = AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=[2, 2], channel_multiples=[1, 2],
        decoder_channels=4, decoder_input_channels=4, audio_channels=1, sampling_rate=16,
    )  # fmt: skip
    scheduler = EDMDPMSolverMultistepScheduler(
        sigma_min=0.3, sigma_max=500.0, sigma_data=1.0, sigma_schedule="exponential",
        prediction_type="v_prediction",
    )  # fmt: skip
    return textless(
        StableAudioPipeline, transformer=transformer, vae=vae, scheduler=scheduler,
        projection_model=StableAudioProjectionModel(WIDTH, WIDTH, min_value=0, max_value=4),
    )  # fmt: skip


def stable_audio_inputs(rows: Rows) -> dict[str, Any]:
    return {**embedded(rows), "latents": fixed(rows, 4, 8)}


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


def wan_transformer() -> Any:
    return WanTransformer3DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=12,
        text_dim=WIDTH, freq_dim=16, ffn_dim=32, rope_max_seq_len=32,
    )  # fmt: skip


def wan() -> Any:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return textless(WanPipeline, transformer=wan_transformer(), scheduler=scheduler)


def wan22() -> Any:
    """The second network takes over below timestep 875: after 2 of 4 steps."""
    return textless(
        WanPipeline, transformer=wan_transformer(), transformer_2=wan_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), boundary_ratio=0.875,
    )  # fmt: skip


def wan_inputs(rows: Rows) -> dict[str, Any]:
    latents = fixed(rows, 4, 2, 4, 4)
    return {**embedded(rows), "latents": latents, "height": 32, "width": 32, "num_frames": 5}


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


# Pipelines that guide in other ways.


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


def ltx2() -> Any:
    """The autoencoders only tell how latents are scaled: their compression is made up."""
    connectors = LTX2TextConnectors(
        caption_channels=WIDTH, text_proj_in_factor=1, rope_double_precision=False,
        video_connector_num_attention_heads=2, video_connector_attention_head_dim=8,
        video_connector_num_layers=1, video_connector_num_learnable_registers=2,
        audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1, audio_connector_num_learnable_registers=2,
    )  # fmt: skip
    transformer = LTX2VideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4,
        audio_num_attention_heads=2, audio_attention_head_dim=4, audio_cross_attention_dim=8,
        num_layers=2, caption_channels=WIDTH, rope_double_precision=False,
    )  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        latent_channels=8, block_out_channels=(8,), decoder_block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False),
        downsample_type=("spatial",), upsample_type=("spatiotemporal",), upsample_residual=(False,),
        upsample_factor=(1,), patch_size=1, spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )  # fmt: skip
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2,
        mel_bins=8,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
        shift_terminal=0.1,
    )  # fmt: skip
    return textless(
        LTX2Pipeline, vae=vae, audio_vae=audio_vae, connectors=connectors, vocoder=None,
        transformer=transformer, scheduler=scheduler,
    )  # fmt: skip


def ltx2_call(pipe: Any, rows: Rows, steps: int, scale: float, **options: Any) -> torch.Tensor:
    """Video latents, with no other guidance than the classifier-free one of video and audio."""
    off = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    off |= {"audio_" + name: value for name, value in off.items()}
    given = {**off, "audio_guidance_scale": scale, **options}
    return caller(ltx2_inputs)(pipe, rows, steps, scale, **given)


def ltx2_inputs(rows: Rows) -> dict[str, Any]:
    inputs = {"height": 64, "width": 64, "num_frames": 9, "generator": generators(rows)}
    return {**embedded(rows, "prompt_attention_mask"), **inputs}


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


ZOO: dict[str, Specimen] = {
    # One call of the denoiser a step, with both halves.
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
    "sd3": Specimen(lambda: sd3(StableDiffusion3Pipeline), caller(sd3_inputs)),
    "sd3-img2img": Specimen(
        lambda: sd3(StableDiffusion3Img2ImgPipeline, tiny.vae()), caller(sd3_picture_inputs)
    ),
    "pixart-sigma": Specimen(pixart_sigma, caller(unbinned)),
    "sana": Specimen(sana, caller(sana_inputs)),
    "dit": Specimen(dit, dit_call),
    "hunyuan-dit": Specimen(hunyuan_dit, caller(hunyuan_dit_inputs)),
    "auraflow": Specimen(auraflow, caller(auraflow_inputs)),
    "kandinsky22": Specimen(kandinsky22, caller(kandinsky22_inputs)),
    "ltx": Specimen(ltx, caller(ltx_inputs)),
    "cogvideox": Specimen(cogvideox, caller(cogvideox_inputs)),
    "stable-audio": Specimen(stable_audio, caller(stable_audio_inputs)),
    # Two calls a step.
    "flux": Specimen(flux, caller(flux_inputs, "true_cfg_scale")),
    "qwen-image": Specimen(qwen_image, caller(qwen_image_inputs, "true_cfg_scale")),
    "wan": Specimen(wan, caller(wan_inputs)),
    "wan22": Specimen(wan22, caller(wan_inputs)),
    "lumina2": Specimen(lumina2, caller(lumina2_inputs)),
    "cogview4": Specimen(cogview4, caller(cogview4_inputs)),
    # Something else.
    "kandinsky3": Specimen(kandinsky3, caller(kandinsky3_inputs)),
    "cosmos2": Specimen(cosmos2, caller(cosmos2_inputs)),
    "ltx2": Specimen(ltx2, ltx2_call),
    "instruct-pix2pix": Specimen(
        lambda: sd(StableDiffusionInstructPix2PixPipeline, 8), caller(controlled)
    ),
    "pag": Specimen(pag, caller(from_noise)),
    "flux-embedded": Specimen(lambda: flux(guidance_embeds=True), caller(flux_inputs)),
    "lcm": Specimen(lcm, caller(lcm_inputs)),
}
