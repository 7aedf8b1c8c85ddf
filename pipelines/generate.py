"""Text to pictures: load a pipeline, guide it, keep the settings with each picture."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .. import models
from ..guidance import Guider
from . import png
from .guided import guided

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "dpm++-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Settings:
    """Everything that a picture depends on; stored in it.

    Attributes:
        guider: the JSON form of the guider.
        scheduler: a name of ``SCHEDULERS``, or "" for the model's own.
        width, height: pixels; ``None`` is the model's own.
        seed: of this one picture.
    """

    prompt: str
    guider: Any
    negative_prompt: str = ""
    model: str = "emoji"
    num_inference_steps: int = 30
    seed: int = 0
    scheduler: str = ""
    width: int | None = None
    height: int | None = None
    dtype: str = "float32"


@dataclass
class Picture:
    """A picture, the settings that made it, its scheduler's class, and the evaluations it took."""

    image: Image.Image
    settings: Settings
    sampler: str
    evaluations: int


def model_folder(model: str) -> Path:
    """The folder of a shipped model or of a local one; a Hub id is returned as it is."""
    return models.path(model) if model in models.NAMES else Path(model)


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pipeline(
    model: str = "emoji", *, scheduler: str = "", device: str = "", dtype: str = "float32"
) -> Any:
    """A Diffusers pipeline by shipped name, local folder or Hub id, ready to be guided.

    Raises:
        ValueError: the model cannot be found or read, or an argument is not allowed.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed is one of {', '.join(DTYPES)}")
    if scheduler and scheduler not in SCHEDULERS:
        raise ValueError(f"scheduler is {scheduler!r}; allowed is one of {', '.join(SCHEDULERS)}")
    try:
        torch.empty(0, device=device or default_device())
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device is {device!r}; allowed is one that works here ({reason})"
        ) from None
    import diffusers  # takes seconds, and most mistakes are found before it is needed

    source = model_folder(model)
    allowed = f"one of {', '.join(models.NAMES)}, a folder in Diffusers format, or an id on the Hub"
    if not source.exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ValueError(f"model is {model!r}; allowed is {allowed}")
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            source if source.exists() else model, dtype=DTYPES[dtype]
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model is {model!r}; allowed is {allowed} that can be read ({reason})"
        ) from None
    if scheduler:
        name, options = SCHEDULERS[scheduler]
        try:
            pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
        except ImportError as error:
            raise ValueError(
                f"scheduler is {scheduler!r}; allowed once installed: {error}"
            ) from None
    return pipe.to(device or default_device())


def generate(
    pipe: Any,
    jobs: Sequence[Settings],
    guider: Guider | Sequence[Guider],
    *,
    batch_size: int = 4,
    quiet: bool = False,
) -> Iterator[Picture]:
    """Draw ``jobs``, which differ in prompt, negative prompt and seed only, batch by batch.

    Every picture has a generator of its own, so that it is the same in any batch (up to the
    rounding of the kernels).

    Args:
        guider: one for all, or one for each job.

    Raises:
        ValueError: something in the settings is not allowed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; allowed is at least 1")
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor  # Diffusers ignores a side alone
    guiders = [guider] * len(jobs) if isinstance(guider, Guider) else list(guider)
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        first = batch[0]
        if first.num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps is {first.num_inference_steps}; allowed is at least 1"
            )
        chosen = guiders[start : start + batch_size]
        same = all(one == chosen[0] for one in chosen)
        with guided(pipe, chosen[0] if same else chosen, quiet=quiet or start > 0) as run:
            images = pipe(
                [job.prompt for job in batch],
                negative_prompt=[job.negative_prompt for job in batch],
                num_inference_steps=first.num_inference_steps,
                width=first.width or size,
                height=first.height or size,
                guidance_scale=7.5,  # only switches the negative branch on
                generator=[torch.Generator().manual_seed(job.seed) for job in batch],
            ).images
        for job, image, count in zip(batch, images, run.last.evaluations, strict=True):
            done = dataclasses.replace(job, width=image.width, height=image.height)
            yield Picture(image, done, type(pipe.scheduler).__name__, count)


def save(picture: Picture, folder: Path) -> Path:
    """Write ``NNNNN-prompt-seed.png`` under the next free number; nothing is overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(p.name[:5]) for p in folder.glob("[0-9][0-9][0-9][0-9][0-9]-*.png")]
    slug = re.sub(r"[^a-z0-9]+", "-", picture.settings.prompt.lower()).strip("-")[:40] or "empty"
    number = max(taken, default=-1) + 1
    path = folder / f"{number:05d}-{slug}-{picture.settings.seed}.png"
    settings = dataclasses.asdict(picture.settings)
    text = png.info(settings, str(Guider.from_dict(picture.settings.guider)), picture.sampler)
    picture.image.save(path, pnginfo=text)
    return path
