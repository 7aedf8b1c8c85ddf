"""The models that ship with the library, in the standard formats of Diffusers and Transformers."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

JUDGED = 32  # pixels of a side, for the networks that judge pictures
NAMES = {
    "emoji": "text to image, 64 x 64 pixels, emoji in six styles: a StableDiffusionPipeline",
    "emoji-weak": "a smaller, less trained UNet for the same pipeline, for autoguidance",
    "emoji-clip": "image-text model for features, scores and rewards: a CLIPModel",
    "emoji-judge": "a second image-text model, for published figures alone",
    "emoji-classifier": "the nine categories, calibrated",
}
PIPELINES = ("emoji",)


@dataclass(frozen=True)
class Defaults:
    """What commands take for a model where nothing else is said; "" has to be said.

    Attributes:
        prompts: the set whose pictures are drawn and measured.
        training_prompts: the set that ``guiders align`` trains on.
        reference: the real pictures to compare with.
        features, scores, classes: networks of metrics: of sets of pictures, of a picture and its
            prompt, and of labels.
        reward: what ``guiders align`` trains for.
        judge: the reward that looks on there.
    """

    prompts: str = ""
    training_prompts: str = "animals"
    reference: str = ""
    features: str = "dinov2"
    scores: str = "clip-l"
    classes: str = ""
    reward: str = ""
    judge: str = ""


_DEFAULTS = {
    "emoji": Defaults(
        prompts="emoji", training_prompts="emoji", reference="train", features="emoji-clip",
        scores="emoji-clip", classes="emoji-classifier", reward="emoji-clip", judge="emoji-judge",
    ),
}  # fmt: skip
_CLASSES = {
    "emoji": "diffusers.DiffusionPipeline",
    "emoji-weak": "diffusers.UNet2DConditionModel",
    "emoji-clip": "transformers.CLIPModel",
    "emoji-judge": "transformers.VisionTextDualEncoderModel",
    "emoji-classifier": "transformers.AutoModelForImageClassification",
}


def defaults(model: str = "emoji") -> Defaults:
    """What commands take for a model where nothing else is said."""
    return _DEFAULTS.get(model, Defaults())


def path(name: str = "emoji") -> Path:
    """The folder of a shipped model, which any ``from_pretrained`` of its class loads.

    Raises:
        ValueError: there is no such model.
    """
    if name not in NAMES:
        raise ValueError(f"model: expected one of {', '.join(NAMES)}, got {name!r}")
    return Path(__file__).parent / name


def statistics(network: str = "emoji-clip", of: str = "train") -> Path:
    """The npz with the features' ``mu`` and ``sigma`` over the pictures of the data.

    Args:
        network: whose features, ``emoji-clip`` (with ``features`` of each picture) or
            ``emoji-judge``.
        of: ``train`` or ``held-out``, the pictures that no model was trained on.

    Raises:
        ValueError: there are no such statistics.
    """
    found = Path(__file__).parent / "emoji-statistics" / f"{network}-{of}.npz"
    if not found.is_file():
        known = ", ".join(sorted(p.stem for p in found.parent.glob("*.npz")))
        raise ValueError(f"statistics: expected one of {known}, got {network}-{of!s}")
    return found


def profiles(name: str = "emoji") -> list[Path]:
    """The files of what guidance does to a shipped pipeline, for several numbers of steps."""
    return sorted((Path(__file__).parent / "profiles").glob(f"{name}-*.json"))


def tokenizer(name: str) -> Any:
    """What turns texts into tokens for ``emoji-clip`` or ``emoji-judge``, each has its own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path(name), local_files_only=True)


def judged(pictures: Tensor) -> Tensor:
    """Pictures as the companions of the emoji model see them: CLIP, judge and classifier.

    Args:
        pictures: (N, 3, H, W), in any range.

    Returns:
        (N, 3, 32, 32), each pixel the mean of the area that it covers.
    """
    from torch.nn.functional import interpolate

    same = pictures.shape[-2:] == (JUDGED, JUDGED)
    return pictures if same else interpolate(pictures, (JUDGED, JUDGED), mode="area")


def load(name: str = "emoji", **options: Any) -> Any:
    """A shipped model, from the disk alone.

    Args:
        name: one of ``NAMES``.
        options: passed on to ``from_pretrained``, such as ``dtype`` (float32 by default).

    Returns:
        A Diffusers pipeline for ``emoji``; a network in evaluation mode for the others.
    """
    import torch

    folder = path(name)
    library, kind = _CLASSES[name].split(".")
    options["dtype"] = options.pop("torch_dtype", options.get("dtype", torch.float32))
    loaded = getattr(importlib.import_module(library), kind).from_pretrained(
        folder, local_files_only=True, **options
    )
    return loaded.eval() if isinstance(loaded, torch.nn.Module) else loaded
