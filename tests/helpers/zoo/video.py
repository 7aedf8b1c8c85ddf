"""Video, and sound."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderOobleck,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.ltx2 import (
    LTX2TextConnectors,
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


SPECIMENS = {
    "ltx": Specimen(ltx, caller(ltx_inputs)),
    "cogvideox": Specimen(cogvideox, caller(cogvideox_inputs)),
    "stable-audio": Specimen(stable_audio, caller(stable_audio_inputs)),
    "wan": Specimen(wan, caller(wan_inputs)),
    "wan22": Specimen(wan22, caller(wan_inputs)),
    "ltx2": Specimen(ltx2, ltx2_call),
}
