"""The parts of a pipeline that guidance reaches into."""

from __future__ import annotations

from typing import Any

import torch

DENOISERS = ("unet", "transformer", "transformer_2")  # where pipelines keep them


def parts_of(pipe: Any) -> dict[str, Any]:
    """The parts of a pipeline that a guider meets: scheduler, denoisers, ControlNet.

    Raises:
        ValueError: it has no scheduler or no denoiser.
    """
    parts = {
        name: part
        for name in (*DENOISERS, "controlnet")
        if isinstance(part := getattr(pipe, name, None), torch.nn.Module)
    }
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None or not any(name in parts for name in DENOISERS):
        raise ValueError(
            f"pipe is a {type(pipe).__name__}; allowed is a Diffusers pipeline with a scheduler "
            f"and a denoiser ({', '.join(DENOISERS)})"
        )
    return {"scheduler": scheduler, **parts}
