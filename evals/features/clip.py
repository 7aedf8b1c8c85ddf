"""Features of pictures and texts, from any image-text model of Transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..storage.pictures import Pictures, to_tensor


@torch.no_grad()
def image_features(model: Any, pictures: Pictures, batch_size: int = 256) -> Tensor:
    """(N, D) projected features, before any normalisation, of pictures of one size.

    Pictures of another size than the model's are averaged to it, each pixel over its area.
    """
    device, size = next(model.parameters()).device, model.config.vision_config.image_size
    parts = []
    for part in _chunks(pictures, batch_size):
        x = to_tensor(part).to(device)
        if x.shape[2:] != (size, size):
            x = interpolate(x, (size, size), mode="area")
        parts.append(model.get_image_features(pixel_values=x).pooler_output.cpu())
    return torch.cat(parts)


@torch.no_grad()
def text_features(
    model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 256
) -> Tensor:
    """(N, D) projected features, before any normalisation."""
    device = next(model.parameters()).device
    parts = []
    for part in _chunks(texts, batch_size):
        tokens = tokenizer(
            list(part), padding="max_length", truncation=True,
            max_length=tokenizer.model_max_length, return_tensors="pt",
        ).to(device)  # fmt: skip
        features = model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        parts.append(features.pooler_output.cpu())
    return torch.cat(parts)


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
