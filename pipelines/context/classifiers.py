"""Classifiers of pictures by name, for gradient-free classifier guidance."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import models
from ..rewards import parse_reward
from ..rewards.clip import Clip, ImageText
from ..rewards.resize import Preprocess

Classifier = Callable[[Tensor], Tensor]
SHIPPED_READERS = ("emoji-clip", "emoji-judge")


def load_classifier(name: str, prompts: Sequence[Any], device: torch.device) -> Classifier:
    """What turns pictures (B, 3, H, W) in [-1, 1] into logits (B, prompts).

    Args:
        name: of a shipped model (emoji-clip, emoji-judge, emoji-classifier), a folder or an id on
            the Hub: a ``CLIPModel``, which compares pictures with the prompts, or an image
            classifier of Transformers, of which the prompts are labels or their numbers.
        prompts: texts or class numbers.

    Raises:
        ValueError: it cannot be read, or does not know the prompts.
    """
    network, reads = _load(name, device)
    if reads:
        return _compare(network, [str(prompt) for prompt in prompts])
    return _label(name, network, list(prompts))


@functools.lru_cache(maxsize=4)
def _load(name: str, device: torch.device) -> tuple[Any, bool]:
    """A network on a device, and whether it reads texts."""
    network, reads = _read(name)
    return network.to(device).eval(), reads


def _read(name: str) -> tuple[Any, bool]:
    if name in SHIPPED_READERS:
        return parse_reward(name, judges=True), True
    from transformers import AutoConfig, AutoModelForImageClassification

    source = models.path(name) if name in models.NAMES else Path(name)
    where = source if source.exists() else name
    try:
        if not source.exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise OSError("there is no such folder")
        if hasattr(AutoConfig.from_pretrained(where), "text_config"):
            return Clip(str(where), name=name), True
        return AutoModelForImageClassification.from_pretrained(where), False
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        shipped = ", ".join((*SHIPPED_READERS, "emoji-classifier"))
        raise ValueError(
            f"classifier is {name!r}; allowed is one of {shipped}, a folder or an id on the Hub "
            f"({reason})"
        ) from None


def _compare(network: ImageText, prompts: list[str]) -> Classifier:
    """The scaled cosine of the features of a picture and of each prompt."""
    texts = torch.nn.functional.normalize(network.texts(prompts), dim=1)

    def classify(pictures: Tensor) -> Tensor:
        seen = network.features((pictures / 2 + 0.5).clamp(0, 1))
        cosines = torch.nn.functional.normalize(seen, dim=1) @ texts.T
        return cosines * network.network.logit_scale.exp()

    return classify


def _label(name: str, network: Any, prompts: list[Any]) -> Classifier:
    labels = {text: int(number) for number, text in network.config.id2label.items()}
    known = set(labels.values())
    chosen = [p if isinstance(p, int) and p in known else labels.get(p, -1) for p in prompts]
    if -1 in chosen:
        some = ", ".join(list(labels)[:12]) + (", ..." if len(labels) > 12 else "")
        raise ValueError(
            f"a prompt is {prompts[chosen.index(-1)]!r}; allowed with the classifier {name} is one "
            f"of its labels: {some}"
        )
    size = getattr(network.config, "image_size", None)
    preprocess = Preprocess(
        size if isinstance(size, int) else 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )

    def classify(pictures: Tensor) -> Tensor:
        if name in models.NAMES:
            seen = models.judged(pictures)
        else:
            seen = preprocess((pictures / 2 + 0.5).clamp(0, 1))
        return network(seen).logits[:, chosen]

    return classify
