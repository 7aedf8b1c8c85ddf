"""Draw pictures with a guided pipeline, and save each with its settings."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...guidance import Guider
from ...guidance.engine.config import as_integer, reject
from ..attach.guided import guided
from ..language.parse import parse_skip
from ..machine import memory_of
from . import png
from .settings import Settings

MOST = 1_000_000  # pictures in a run


@dataclass
class Picture:
    """A picture, with the settings and the guider that made it.

    Attributes:
        sampler: the class of its scheduler.
        evaluations: of the network, for this picture.
    """

    image: Image.Image
    settings: Settings
    guider: Guider
    sampler: str
    evaluations: int


def generate(
    pipe: Any,
    jobs: Iterable[Settings],
    guider: Guider | Iterable[Guider],
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
        ValueError: a setting is not allowed.
    """
    as_integer("", "batch_size", batch_size, low=1)
    alone = isinstance(guider, Guider)
    guiders = itertools.repeat(guider) if isinstance(guider, Guider) else guider
    pairs: Iterator[tuple[Settings, Guider]] = zip(jobs, guiders, strict=not alone)
    while together := list(itertools.islice(pairs, batch_size)):
        batch, chosen = [job for job, _ in together], [one for _, one in together]
        same = all(one == chosen[0] for one in chosen)
        skip = parse_skip(batch[0].skip)
        with guided(pipe, chosen[0] if same else chosen, quiet=quiet, skip=skip) as run:
            images = sample(pipe, batch)
        quiet = True  # the plan of the first batch is that of all
        counts = run.last.evaluations
        for job, one, image, count in zip(batch, chosen, images, counts, strict=True):
            done = dataclasses.replace(job, width=image.width, height=image.height)
            yield Picture(image, done, one, type(pipe.scheduler).__name__, count)


def sample(pipe: Any, jobs: Sequence[Settings], **options: object) -> list[Image.Image]:
    """Call ``pipe`` once for ``jobs``, which differ in prompt, negative prompt and seed only.

    Args:
        options: further arguments of the call.

    Raises:
        ValueError: a setting is not allowed.
    """
    first, size = jobs[0], _size(pipe, jobs[0])
    if size:
        _check_room(pipe, **size, pictures=len(jobs))
    result = pipe(
        _conditions(pipe, jobs),
        num_inference_steps=first.num_inference_steps,
        generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
        **negative_arguments(pipe, [job.negative_prompt for job in jobs]),
        **size,
        **options,
    )
    if not hasattr(result, "images"):
        kind = type(pipe).__name__
        raise ValueError(f"model: expected a pipeline that draws pictures, got a {kind}")
    return list(result.images)


def _conditions(pipe: Any, jobs: Sequence[Settings]) -> list[str] | list[int | str]:
    """The prompts; as class numbers where the pipeline draws classes.

    Raises:
        ValueError: a prompt is neither the number nor the name of a class.
    """
    prompts = [job.prompt for job in jobs]
    if "class_labels" not in inspect.signature(type(pipe).__call__).parameters:
        return prompts
    names = getattr(pipe, "labels", {})
    for prompt in prompts:
        if prompt not in names and not prompt.isdecimal():
            expected = f"the number or the name of a class, for {type(pipe).__name__}"
            raise reject("", "prompt", prompt, expected)
    return [names[prompt] if prompt in names else int(prompt) for prompt in prompts]


def negative_arguments(pipe: Any, negative: Sequence[str]) -> dict[str, Any]:
    """The negative prompts, and a scale that switches the negative branch on.

    The scale's value has no effect: the guider's own counts.

    Raises:
        ValueError: there is a negative prompt and the pipeline takes none.
    """
    known = inspect.signature(type(pipe).__call__).parameters
    if "negative_prompt" not in known:
        if any(negative):
            text = next(filter(None, negative))
            raise reject("", "negative_prompt", text, f"none, for {type(pipe).__name__}")
        return {"guidance_scale": 7.5} if "guidance_scale" in known else {}
    # Where there is a true scale, guidance_scale is an input of a distilled network.
    switch = "true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale"
    return {"negative_prompt": list(negative), switch: 7.5}


def _size(pipe: Any, settings: Settings) -> dict[str, int]:
    """Both sides, or none: Diffusers ignores one side given without the other."""
    if settings.width is None and settings.height is None:
        return {}
    if settings.width and settings.height:
        return {"width": settings.width, "height": settings.height}
    network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    side = getattr(network.config, "sample_size", None) or getattr(pipe, "default_sample_size", 0)
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    factor = getattr(pipe, "vae_scale_factor", 0)
    if not height * factor:
        raise ValueError(
            f"width and height: expected both or none, for {type(pipe).__name__}, got "
            f"{settings.width} and {settings.height}"
        )
    return {
        "width": settings.width or width * factor,
        "height": settings.height or height * factor,
    }


def _check_room(pipe: Any, width: int, height: int, pictures: int) -> None:
    """Check that the input and output of the decoder's last convolution fit into memory.

    Raises:
        ValueError: they do not.
    """
    vae: Any = getattr(pipe, "vae", None)
    if type(vae).__name__ != "AutoencoderKL" or getattr(vae, "use_tiling", False):
        return
    device = getattr(pipe, "_execution_device", pipe.device)
    rows = 1 if getattr(vae, "use_slicing", False) else pictures
    needed = 2 * rows * vae.config.block_out_channels[0] * height * width * vae.dtype.itemsize
    there = memory_of(device)
    if there and needed > there:
        raise ValueError(
            f"width and height: expected what fits into the {there / 1e9:.0f} GB of {device.type}, "
            f"got {width} and {height} for {rows} pictures at once, for which the decoder alone "
            f"takes {needed / 1e9:.0f} GB"
        )


def save(picture: Picture, folder: Path) -> Path:
    """Write ``NNNNN-prompt-seed.png`` under the next free number; nothing is overwritten."""
    numbers = [re.match(r"(\d{5,})-", path.name) for path in folder.glob("*.png")]
    number = max((int(match[1]) for match in numbers if match), default=-1) + 1
    slug = re.sub(r"[^a-z0-9]+", "-", picture.settings.prompt.lower()).strip("-")[:40] or "empty"
    settings = dataclasses.asdict(picture.settings)
    text = png.info(settings, str(picture.guider), picture.sampler)
    while True:
        path = folder / f"{number:05d}-{slug}-{picture.settings.seed}.png"
        try:
            png.save(path, picture.image, text, new=True)
            return path
        except FileExistsError:  # another process has taken the number
            number += 1
