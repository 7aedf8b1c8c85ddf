"""Tiny pipelines of many kinds with random weights, and one way of running them all.

``pipe = build("flux")``, then ``run("flux", pipe, rows=(0, 1), scale=5)``. A row is a number: it
fixes the prompt, the negative prompt, the noise and, where there is one, the picture, so that a
row is the same alone and in a batch. Every run takes ``steps`` steps, those that start from a
picture as well.

A family is a file, which is read when one of its pipelines is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from guiders import guided

from .parts import WORDS, Rows, Specimen, fixed, pictures

__all__ = ["FAMILIES", "WORDS", "ZOO", "attached", "build", "fixed", "pictures", "run"]

FAMILIES = {
    "stable_diffusion": [
        "sd", "sd-img2img", "sd-inpaint", "sd-inpaint-4", "sd-controlnet", "sdxl", "sdxl-img2img",
        "sdxl-inpaint", "sdxl-controlnet", "instruct-pix2pix", "pag", "lcm",
    ],
    "joint": ["sd3", "sd3-img2img", "auraflow", "flux", "qwen-image", "cogview4", "flux-embedded"],
    "dit": ["pixart-sigma", "sana", "dit", "hunyuan-dit", "lumina2", "cosmos2"],
    "kandinsky": ["kandinsky22", "kandinsky3"],
    "video": ["ltx", "cogvideox", "stable-audio", "wan", "wan22", "ltx2"],
}  # fmt: skip
ZOO = {name: family for family, names in FAMILIES.items() for name in names}


def specimen(name: str) -> Specimen:
    return importlib.import_module(f".{ZOO[name]}", __name__).SPECIMENS[name]


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline ``name``, with the same weights every time; torch's own seed is left alone."""
    make = specimen(name).build
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = make()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == torch.float32 else pipe.to(dtype)


def run(
    name: str, pipe: Any, rows: Rows = (0, 1), steps: int = 4, scale: float = 5.0, **options: Any
) -> torch.Tensor:
    """The final latents of ``rows``, guided by the pipeline itself; ``options`` go to its call."""
    return specimen(name).call(pipe, tuple(rows), steps, scale, **options)


def attached(name: str, guider: Any, pipe: Any, **options: Any) -> tuple[torch.Tensor, Any]:
    """The final latents of a guided run, and the attachment."""
    with guided(pipe, guider, quiet=True) as attachment:
        return run(name, pipe, **options), attachment
