"""The models that ship with the library, in the standard Diffusers format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES = {"emoji": "text to image, 32 x 32 pixels, emoji in six styles"}


def path(name: str = "emoji") -> Path:
    """The folder of a shipped model, which any ``from_pretrained`` of Diffusers loads.

    Raises:
        ValueError: there is no such model.
    """
    if name not in NAMES:
        raise ValueError(f"model is {name!r}; allowed is one of {', '.join(NAMES)}")
    return Path(__file__).parent / name


def load(name: str = "emoji", **options: Any) -> Any:
    """A shipped model as a Diffusers pipeline.

    Args:
        name: one of ``NAMES``.
        options: passed on to ``from_pretrained``, such as ``dtype`` (float32 by default).
    """
    import torch
    from diffusers import DiffusionPipeline

    options["dtype"] = options.pop("torch_dtype", options.get("dtype", torch.float32))
    return DiffusionPipeline.from_pretrained(path(name), local_files_only=True, **options)
