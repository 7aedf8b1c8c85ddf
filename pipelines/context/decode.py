"""Pictures of clean latents, as the pipeline's own autoencoder decodes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def decode(
    pipe: DiffusionPipeline, x0: Tensor, height: int | None = None, width: int | None = None
) -> Tensor:
    """Pictures (B, 3, H, W), about [-1, 1], of clean latents (B, ...); differentiable.

    Args:
        height, width: pixels, for pipelines that pack their latents into tokens.

    Raises:
        ValueError: the pipeline's latents are not pictures of an ``AutoencoderKL`` or the like.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        if x0.dim() == 4 and x0.shape[1] == 3:  # it denoises pixels
            return x0
        raise _cannot(pipe, "it has no vae")
    if x0.dim() == 3 and hasattr(pipe, "_unpack_latents"):
        side = getattr(pipe, "default_sample_size", 0) * getattr(pipe, "vae_scale_factor", 0)
        x0 = pipe._unpack_latents(x0, height or side, width or side, pipe.vae_scale_factor)
    if x0.dim() == 5 and x0.shape[2] == 1 and not hasattr(vae.config, "latents_mean"):
        x0 = x0[:, :, 0]
    if x0.dim() != 4:
        raise _cannot(pipe, f"its latents have {x0.dim()} dimensions")
    config, parameter = vae.config, next(vae.parameters())
    hook = getattr(vae, "_hf_hook", None)  # an offloaded one is moved when it is called
    brought = parameter.device.type == "meta"  # layer by layer, as each is called
    there = x0.device if brought else parameter.device
    device = getattr(hook, "execution_device", None) or there
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    scaling = getattr(config, "scaling_factor", 1.0) or 1.0
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        mean, std = (torch.tensor(v, device=x0.device, dtype=x0.dtype) for v in (mean, std))
        x0 = x0 * std.view(shape) / scaling + mean.view(shape)
    else:
        x0 = x0 / scaling + (getattr(config, "shift_factor", 0.0) or 0.0)
    if parameter.dtype == torch.float16 and getattr(config, "force_upcast", False):
        if brought:  # in the type that the layers have here, where they are empty
            nn.Module.to(vae, torch.float32)
            try:
                return vae.decode(x0.to(device).float(), return_dict=False)[0]
            finally:
                nn.Module.to(vae, torch.float16)
        weights = {f"vae.{name}": value.float() for name, value in vae.state_dict().items()}
        return functional_call(_Decoder(vae), weights, (x0.to(device).float(),))
    return vae.decode(x0.to(device, parameter.dtype), return_dict=False)[0].float()


class _Decoder(nn.Module):
    """An autoencoder whose forward decodes; for one that overflows in half precision."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x0: Tensor) -> Tensor:
        vae: Any = self.vae
        return vae.decode(x0, return_dict=False)[0]


def _cannot(pipe: DiffusionPipeline, why: str) -> ValueError:
    return ValueError(
        f"{type(pipe).__name__}: the guider asks for decoded pictures and {why}; allowed are "
        "pipelines whose latents are decoded to single pictures"
    )
