"""Text to pictures: load a pipeline, guide it, keep the settings with each picture."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ... import models
from ...guidance import Guider
from ...guidance.engine.files import reason_of
from . import png
from ..attach.guided import guided
from ..machine import check_device, default_device, memory_of
from ..language.parse import parse_acceleration

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "dpm++-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "evodiff": ("EVODiffMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}

MOST = 1_000_000  # pictures of a run
LORA = "pytorch_lora_weights.safetensors"  # what Diffusers looks for in a folder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Settings:
    """Everything that a picture depends on; stored in it.

    Attributes:
        guider: the JSON form of the guider.
        scheduler: a name of ``SCHEDULERS``, or "" for the model's own.
        width, height: pixels; ``None`` is the model's own.
        accelerate: words such as "sada" that leave out evaluations, or "".
        lora: a file or folder with a LoRA for the model, or "".
        seed: of this one picture.

    Raises:
        ValueError: a setting is of the wrong type or out of range.
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
    accelerate: str = ""
    lora: str = ""

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt", "model", "scheduler", "dtype", "accelerate",
                     "lora"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, str) or not _is_unicode(value):
                raise ValueError(f"{name} is {value!r}; allowed is text")
        for name, low, high in (
            ("num_inference_steps", 1, 1000),
            ("seed", 0, 2**63 - 1),
            ("width", 8, 16384),
            ("height", 8, 16384),
        ):
            value = getattr(self, name)
            if value is None and name in ("width", "height"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                allowed = f"a whole number from {low} to {high}"
                raise ValueError(f"{name} is {value!r}; allowed is {allowed}")
        for name, table in (("scheduler", ["", *SCHEDULERS]), ("dtype", list(DTYPES))):
            if getattr(self, name) not in table:
                allowed = ", ".join(filter(None, table))
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed is one of {allowed}")
        parse_acceleration(self.accelerate)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class Picture:
    """A picture, the settings that made it, its scheduler's class, and the evaluations it took."""

    image: Image.Image
    settings: Settings
    sampler: str
    evaluations: int


def model_folder(model: str) -> Path:
    """The folder of a shipped model or of a local one; a Hub id is returned as it is."""
    return models.path(model) if model in models.PIPELINES else Path(model)


def load_pipeline(
    model: str = "emoji", *, scheduler: str = "", device: str = "", dtype: str = "float32",
    lora: str = "",
) -> Any:  # fmt: skip
    """A Diffusers pipeline by shipped name, local folder or Hub id, ready to be guided.

    Args:
        lora: a ``.safetensors`` file, or a folder with one of the name that Diffusers gives it.

    Raises:
        ValueError: the model cannot be found or read, or an argument is not allowed.
    """
    Settings("", None, model=model, scheduler=scheduler, dtype=dtype, lora=lora)  # checks them
    check_device(device)
    import diffusers  # takes seconds, and most mistakes are found before it is needed

    from ...samplers import evodiff  # saved pipelines may name it

    source = model_folder(model)
    allowed = (
        f"one of {', '.join(models.PIPELINES)}, a folder in Diffusers format, or an id on the Hub"
    )
    if source.is_file() or not (source.exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", model)):
        which = ", a file" if source.is_file() else ""
        raise ValueError(f"model is {model!r}{which}; allowed is {allowed}")
    weights = _lora_file(lora) if lora else None
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            source if source.exists() else model, dtype=DTYPES[dtype]
        )
    except Exception as error:  # a damaged file raises anything
        raise ValueError(
            f"model is {model!r}; allowed is {allowed} that can be read ({reason_of(error)})"
        ) from None
    if weights:
        _add_lora(pipe, weights)
    if scheduler:
        name, options = SCHEDULERS[scheduler]
        try:
            kind = getattr(diffusers if hasattr(diffusers, name) else evodiff, name)
            pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
        except ImportError as error:
            raise ValueError(
                f"scheduler is {scheduler!r}; allowed once installed: {error}"
            ) from None
    device = device or default_device()
    return pipe if device == "cpu" else pipe.to(device)


def _lora_file(lora: str) -> Path:
    path = Path(lora)
    path = path / LORA if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(
            f"lora is {lora!r}; allowed is a .safetensors file, or a folder with {LORA}"
        )
    return path


def _add_lora(pipe: Any, path: Path) -> None:
    if importlib.util.find_spec("peft") is None:
        raise ValueError(
            f"lora is {str(path)!r}; allowed with peft: `pip install 'guiders[align]'` gets it"
        )
    where = {"weight_name": path.name, "use_safetensors": True, "local_files_only": True}
    network: Any = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    try:
        if hasattr(pipe, "load_lora_weights"):
            pipe.load_lora_weights(str(path.parent), **where)
        else:
            network.load_lora_adapter(str(path.parent), prefix=None, **where)
        if not any(getattr(part, "peft_config", None) for part in pipe.components.values()):
            raise ValueError("it has nothing for this model")
    except Exception as error:  # of many kinds, where it is for another model
        raise ValueError(
            f"lora is {str(path)!r}; allowed is one of a {type(pipe).__name__} that can be read "
            f"({reason_of(error)})"
        ) from None


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
        ValueError: something in the settings is not allowed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; allowed is at least 1")
    alone = isinstance(guider, Guider)
    guiders = itertools.repeat(guider) if isinstance(guider, Guider) else guider
    pairs: Iterator[tuple[Settings, Guider]] = zip(jobs, guiders, strict=not alone)
    while together := list(itertools.islice(pairs, batch_size)):
        batch, chosen = [job for job, _ in together], [one for _, one in together]
        same = all(one == chosen[0] for one in chosen)
        accelerate = parse_acceleration(batch[0].accelerate)
        with guided(pipe, chosen[0] if same else chosen, quiet=quiet, accelerate=accelerate) as run:
            images = sample(pipe, batch)
        quiet = True  # the plan of the first batch is that of all
        for job, image, count in zip(batch, images, run.last.evaluations, strict=True):
            done = dataclasses.replace(job, width=image.width, height=image.height)
            yield Picture(image, done, type(pipe.scheduler).__name__, count)


def sample(pipe: Any, jobs: Sequence[Settings], **options: Any) -> list[Any]:
    """Call ``pipe`` once for ``jobs``, which differ in prompt, negative prompt and seed only.

    Args:
        options: further arguments of the call.

    Raises:
        ValueError: something in the settings is not allowed.
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
        raise ValueError(f"model is a {kind}, which draws no pictures; allowed is one that does")
    return list(result.images)


def _conditions(pipe: Any, jobs: Sequence[Settings]) -> list[Any]:
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
            raise ValueError(
                f"prompt is {prompt!r}; allowed for {type(pipe).__name__} is the number or the "
                "name of a class"
            )
    return [names[prompt] if prompt in names else int(prompt) for prompt in prompts]


def negative_arguments(pipe: Any, negative: Sequence[str]) -> dict[str, Any]:
    """The negative prompts, and what switches the negative branch on; its size has no effect.

    Raises:
        ValueError: there is a negative prompt and the pipeline takes none.
    """
    known = inspect.signature(type(pipe).__call__).parameters
    if "negative_prompt" not in known:
        if any(negative):
            text = next(filter(None, negative))
            raise ValueError(f"negative_prompt is {text!r}; {type(pipe).__name__} takes none")
        return {"guidance_scale": 7.5} if "guidance_scale" in known else {}
    # Where there is a true scale, guidance_scale is an input of a distilled network.
    switch = "true_cfg_scale" if "true_cfg_scale" in known else "guidance_scale"
    return {"negative_prompt": list(negative), switch: 7.5}


def _size(pipe: Any, settings: Settings) -> dict[str, int]:
    """Both sides, or none: Diffusers ignores one that is given alone."""
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
            f"width is {settings.width} and height is {settings.height}; allowed for "
            f"{type(pipe).__name__} are both or none"
        )
    return {
        "width": settings.width or width * factor,
        "height": settings.height or height * factor,
    }


def _check_room(pipe: Any, width: int, height: int, pictures: int) -> None:
    """What the decoder's last convolution takes and gives is in memory at once, whatever else is.

    Raises:
        ValueError: that alone is more than there is.
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
            f"width is {width} and height is {height}, for {rows} pictures at once; the decoder "
            f"alone would take {needed / 1e9:.0f} GB, and allowed is what fits into the "
            f"{there / 1e9:.0f} GB of {device.type}"
        )


def save(picture: Picture, folder: Path) -> Path:
    """Write ``NNNNN-prompt-seed.png`` under the next free number; nothing is overwritten."""
    numbers = [re.match(r"(\d{5,})-", path.name) for path in folder.glob("*.png")]
    number = max((int(match[1]) for match in numbers if match), default=-1) + 1
    slug = re.sub(r"[^a-z0-9]+", "-", picture.settings.prompt.lower()).strip("-")[:40] or "empty"
    settings = dataclasses.asdict(picture.settings)
    text = png.info(settings, str(Guider.from_dict(picture.settings.guider)), picture.sampler)
    while True:
        path = folder / f"{number:05d}-{slug}-{picture.settings.seed}.png"
        try:
            png.save(path, picture.image, text, new=True)
            return path
        except FileExistsError:  # another process has taken the number
            number += 1
