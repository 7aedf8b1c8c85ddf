"""Networks that turn pictures into features: which weights, which resize, and where they lie."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from tqdm import tqdm

from ... import models
from ...guidance.engine.files import reason_of
from ..storage.pictures import Picture, Pictures, to_tensor
from . import inception
from .clip import text_features

HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HUB = {
    "dinov2": "facebook/dinov2-large",
    "clip-l": "openai/clip-vit-large-patch14",
    "clip-l-336": "openai/clip-vit-large-patch14-336",
}
NAMES = {
    "emoji-clip": "features and scores, of pictures averaged to 32 x 32 pixels; ships",
    "emoji-judge": "a second judge of another architecture; ships",
    "emoji-classifier": "the nine categories; ships",
    "inception": "Inception-v3 of 2015-12-05, 2048 features: FID",
    "dinov2": f"DINOv2 ViT-L/14, 1024 features: FD-DINOv2 ({HUB['dinov2']})",
    "clip-l": f"CLIP ViT-L/14: the usual CLIP score ({HUB['clip-l']})",
    "clip-l-336": f"CLIP ViT-L/14 at 336 pixels: CMMD ({HUB['clip-l-336']})",
}
BATCH = 64  # of pictures that nobody else divides


@dataclass
class Network:
    """Pictures to rows of numbers.

    Args:
        name: in tables and file names.
        module: (N, 3, S, S), normalised, to (N, D).
        size: S, the side in pixels; ``None`` takes pictures as they are.
        resize: ``bicubic`` (smoothed, as PyTorch's ``antialias``), ``area`` (the mean of what a
            pixel covers) or ``tf1``; sides are scaled one by one, so that pictures that are not
            square are squeezed.
        mean, std: of each channel, of values in [0, 1].
        read: texts to (N, D) features that a score compares with those of pictures.
        labels: of a classifier, whose features are probabilities.
    """

    name: str
    module: Callable[[Tensor], Tensor]
    size: int | None = None
    resize: str = "bicubic"
    mean: Sequence[float] = HALF[0]
    std: Sequence[float] = HALF[1]
    read: Callable[[Sequence[str]], Tensor] | None = None
    labels: Sequence[str] = ()
    owner: nn.Module | None = field(default=None, repr=False)
    _digest: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.owner is None and isinstance(self.module, nn.Module):
            self.owner = self.module
        if self.owner is not None:
            self.owner.eval()

    def to(self, device: str | torch.device) -> Network:
        if self.owner is not None:
            self.owner.to(device)
        return self

    @property
    def device(self) -> torch.device:
        parameters = self.owner.parameters() if self.owner is not None else iter(())
        return next((p.device for p in parameters), torch.device("cpu"))

    @torch.no_grad()
    def __call__(self, pictures: Pictures) -> Tensor:
        """(N, D) float32 features of pictures, of one size where the network does not resize.

        Raises:
            ValueError: the pictures differ in size, or the features are not (N, D) finite numbers.
        """
        features = self.module(self.prepare(pictures).to(self.device)).cpu().float()
        if features.ndim != 2 or len(features) != len(pictures):
            raise ValueError(
                f"network {self.name} gives {tuple(features.shape)} for {len(pictures)} pictures; "
                "allowed is (N, D)"
            )
        if not features.isfinite().all():
            row = int((~features.isfinite()).any(dim=1).nonzero()[0])
            raise ValueError(f"network {self.name}: features of picture {row} are NaN or infinite")
        return features

    def prepare(self, pictures: Pictures) -> Tensor:
        """(N, 3, S, S) as the network takes them."""
        if self.size is not None and len({np.asarray(picture).shape for picture in pictures}) > 1:
            return torch.cat([self.prepare([picture]) for picture in pictures])
        x = (to_tensor(pictures) + 1) / 2
        if self.size is not None and x.shape[2:] != (self.size, self.size):
            if self.resize == "tf1":
                x = inception.resize_tf1(x, self.size)
            else:
                smoothed = self.resize == "bicubic"
                x = interpolate(x, (self.size, self.size), mode=self.resize, antialias=smoothed)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, 16 digits of it; "" where there are none to read."""
        if not self._digest and self.owner is not None:
            self._digest = weights_digest({"": self.owner})
        return self._digest

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it."""
        resize = f"{self.resize} {self.size}" if self.size else "none"
        return {"name": self.name, "sha256": self.digest, "resize": resize}


def features_of(
    pictures: Iterator[Picture], count: int, network: Network, title: str
) -> Iterator[Tensor]:
    """Features of pictures, batch by batch."""
    batch: list[Picture] = []
    with tqdm(total=count, desc=f"{network.name}: {title}", unit="picture", disable=None) as bar:
        for picture in pictures:
            if len(batch) == BATCH:
                yield network(batch)
                bar.update(len(batch))
                batch = []
            batch.append(picture)
        if batch:
            yield network(batch)
            bar.update(len(batch))


def weights_digest(modules: Mapping[str, nn.Module]) -> str:
    """SHA-256 of the names and numbers of all weights, 16 digits of it."""
    total = hashlib.sha256()
    for name, module in sorted(modules.items()):
        for key, value in sorted(module.state_dict().items()):
            total.update(f"{name}.{key}".encode())
            total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()[:16]


def load_network(name: str) -> Network:
    """A network by name.

    Args:
        name: one of ``NAMES``; ``clip:ID_OR_FOLDER``, any CLIP of Transformers; or
            ``package.module:attribute``, an ``nn.Module`` or a function that makes one, which
            takes (N, 3, H, W) in [-1, 1]. Code is imported then. A classifier has its classes as
            ``labels``, a network for scores a function ``read`` of texts.

    Raises:
        ValueError: there is no such network, or its weights cannot be had.
    """
    check_name(name)
    if name in NAMES and name.startswith("emoji-"):
        return _emoji(name)
    if name == "inception":
        return _inception()
    if name == "dinov2":
        return _dinov2()
    if name in HUB:
        return _clip(name, name)
    if runs_code(name):
        return _imported(name)
    return _clip(name, name.removeprefix("clip:"))


def check_name(name: str) -> None:
    """Complain of what is no network's name, without loading any.

    Raises:
        ValueError: there is no such network.
    """
    if name not in NAMES and name not in HUB and not re.fullmatch(r"[^:]+:.+", name):
        raise ValueError(
            f"network is {name!r}; allowed is one of {', '.join(NAMES)}, clip:ID_OR_FOLDER, or "
            "package.module:attribute"
        )


def runs_code(name: str) -> bool:
    """Does loading that network import a module that its name says?"""
    return ":" in name and not name.startswith("clip:")


def weights_folder() -> Path:
    """Where weights are looked for before they are fetched: ``GUIDERS_WEIGHTS`` or the cache."""
    return Path(os.environ.get("GUIDERS_WEIGHTS", Path.home() / ".cache" / "guiders"))


def _emoji(name: str) -> Network:
    model = models.load(name)
    if name == "emoji-classifier":
        words = [model.config.id2label[i] for i in range(model.config.num_labels)]
        return Network(
            name, lambda x: model(x).logits.softmax(dim=1), models.JUDGED, "area", labels=words,
            owner=model,
        )  # fmt: skip
    tokenizer = models.tokenizer(name)
    return Network(
        name, lambda x: model.get_image_features(pixel_values=x).pooler_output, models.JUDGED,
        "area", owner=model, read=lambda texts: text_features(model, tokenizer, texts),
    )  # fmt: skip


def _inception() -> Network:
    path = weights_folder() / inception.URL.rsplit("/", 1)[1]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(inception.URL, str(path), hash_prefix="6726825d")
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"network inception needs weights that cannot be fetched ({error}); put "
                f"{inception.URL} at {path}, or take a network that ships, as in fd:emoji-clip"
            ) from None
    network = inception.Inception()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises whatever a damaged file leads to
        raise ValueError(
            f"network inception: {path} is not its weights ({reason_of(error)}); put "
            f"{inception.URL} there"
        ) from None
    # TensorFlow's preparation is (value - 128) / 128 of values up to 255.
    return Network("inception", network, inception.SIZE, "tf1", (128 / 255,) * 3, (128 / 255,) * 3)


def _dinov2() -> Network:
    model = _pretrained("Dinov2Model", "dinov2")
    fit_positions(model, 224)
    return Network(
        "dinov2", lambda x: model(pixel_values=x).pooler_output, 224, "bicubic", *IMAGENET,
        owner=model,
    )  # fmt: skip


def fit_positions(model: Any, size: int) -> None:
    """Interpolate a DINOv2's positions to ``size`` pixels once, as its authors' code does.

    That code scales by (cells + 0.1) / cells there were, Transformers by the sizes alone, which
    gives slightly other features.
    """
    embeddings, side = model.embeddings, size // model.config.patch_size
    first, rest = embeddings.position_embeddings.data.split(
        [1, embeddings.position_embeddings.shape[1] - 1], dim=1
    )
    there = round(rest.shape[1] ** 0.5)
    grid = rest.reshape(1, there, there, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / there
    grid = interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    rest = grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    embeddings.position_embeddings = nn.Parameter(torch.cat([first, rest], dim=1))


def _clip(name: str, source: str) -> Network:
    model = _pretrained("CLIPModel", source)
    tokenizer = _tokenizer(_source(source))
    return Network(
        name, lambda x: model.get_image_features(pixel_values=x).pooler_output,
        model.config.vision_config.image_size, "bicubic", *CLIP, owner=model,
        read=lambda texts: text_features(model, tokenizer, texts),
    )  # fmt: skip


def _source(name: str) -> str:
    """A folder that is there, or the id to fetch."""
    local = weights_folder() / name
    return str(local) if local.is_dir() else HUB.get(name, name)


def _pretrained(kind: str, name: str) -> Any:
    source = _source(name)
    try:
        transformers = importlib.import_module("transformers")
        return getattr(transformers, kind).from_pretrained(source, dtype=torch.float32).eval()
    except Exception as error:  # a damaged file raises anything
        where = weights_folder() / name if name in HUB else Path(source)
        raise ValueError(
            f"network {name} needs weights that cannot be had ({reason_of(error)}); put the files "
            f"of {source} into {where}, or take one that ships, as in fd:emoji-clip"
        ) from None


def _tokenizer(source: str | Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise ValueError(f"tokenizer of {source} cannot be had ({reason_of(error)})") from None


def _imported(name: str) -> Network:
    place, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(place), attribute)
        module = found if isinstance(found, nn.Module) else found()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"network is {name!r}, which cannot be imported ({error}); allowed is "
            "package.module:attribute, an nn.Module or a function that makes one"
        ) from None
    if not isinstance(module, nn.Module):
        raise ValueError(f"network is {name!r}, a {type(module).__name__}; allowed is an nn.Module")
    read, labels = getattr(module, "read", None), getattr(module, "labels", ())
    return Network(name, module, resize="none", read=read, labels=labels)
