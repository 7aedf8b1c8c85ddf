"""What the families share: inputs that are fixed row by row, and pipelines without encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Rows = Sequence[int]

PROMPTS = ("red heart", "blue car", "cat", "green apple")
WORDS, WIDTH = 6, 16  # tokens of a prompt where embeddings are given, and channels of each


@dataclass(frozen=True)
class Specimen:
    """How to build a tiny pipeline, and how to call it.

    ``call(pipe, rows, steps, scale, **options)`` returns the final latents, a row for each of
    ``rows``.
    """

    build: Callable[[], Any]
    call: Callable[..., torch.Tensor]


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


# Embeddings stand in for text encoders, and mostly nothing for the autoencoder.


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
