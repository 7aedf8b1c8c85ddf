"""A pipeline before its adapter is trained: frozen, on its device, in its precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..context.probe import quiet_bar
from ..patch.class_swap import restore, swap
from ..patch.parts import parts_of
from .backprop import plain

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def freeze(pipe: DiffusionPipeline, dtype: torch.dtype, device: torch.device, blocks: bool) -> None:
    """Everything without gradients, in inference mode, on the device, in the type given.

    Args:
        pipe: a Diffusers pipeline.
        dtype: of all parts but SDXL's autoencoder, which overflows in float16.
        device: where they go.
        blocks: evaluate networks and decoder block by block on the way back.
    """
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
            if getattr(part, "dtype", dtype) != dtype:
                part.to(dtype)  # before it takes room on the device
    vae: Any = getattr(pipe, "vae", None)
    upcast = vae is not None and getattr(vae.config, "force_upcast", False)
    if upcast and dtype == torch.float16:
        vae.float()
    pipe.to(device)
    if blocks:
        for part in (vae, *parts_of(pipe).values()):
            if getattr(part, "_supports_gradient_checkpointing", False):
                part.enable_gradient_checkpointing()


@contextmanager
def trainable(pipe: DiffusionPipeline) -> Iterator[None]:
    """The pipeline without its bar and what is no function; its decoder takes latents of any type.

    The type is that of the loop, which an adapter in float32 may widen.
    """
    vae = getattr(pipe, "vae", None)

    def decode(original: Any, vae: Any, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        return original(vae, z.to(vae.dtype), *args, **kwargs)

    if vae is not None:
        swap(vae, {"decode": decode})
    try:
        with quiet_bar(pipe), plain(pipe):
            yield
    finally:
        if vae is not None:
            restore(vae)
