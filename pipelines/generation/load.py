"""A pipeline by name, folder or Hub id."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from ... import models
from ...guidance.engine.config import reject
from ...guidance.engine.files import reason_of
from ..machine import check_device, default_device
from .settings import DTYPES, SCHEDULERS, Settings

LORA = "pytorch_lora_weights.safetensors"  # what Diffusers looks for in a folder


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
    expected = (
        f"one of {', '.join(models.PIPELINES)}, a folder in Diffusers format, or an id on the Hub"
    )
    if source.is_file() or not (source.exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", model)):
        which = "the file " if source.is_file() else ""
        raise ValueError(f"model: expected {expected}, got {which}{model!r}")
    weights = _lora_file(lora) if lora else None
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            source if source.exists() else model, dtype=DTYPES[dtype]
        )
    except Exception as error:  # a damaged file raises anything
        raise ValueError(
            f"model: expected {expected} that can be read, got {model!r} ({reason_of(error)})"
        ) from None
    if weights:
        _add_lora(pipe, weights)
    if scheduler:
        name, options = SCHEDULERS[scheduler]
        try:
            kind = getattr(diffusers if hasattr(diffusers, name) else evodiff, name)
            pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
        except ImportError as error:
            expected = f"one whose packages are installed ({error})"
            raise reject("", "scheduler", scheduler, expected) from None
    device = device or default_device()
    return pipe if device == "cpu" else pipe.to(device)


def _lora_file(lora: str) -> Path:
    path = Path(lora)
    path = path / LORA if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        raise reject("", "lora", lora, f"a .safetensors file, or a folder with {LORA}")
    return path


def _add_lora(pipe: Any, path: Path) -> None:
    if importlib.util.find_spec("peft") is None:
        expected = "peft to be installed: `pip install 'guiders[align]'`"
        raise reject("", "lora", str(path), expected)
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
        expected = f"one of a {type(pipe).__name__} that can be read ({reason_of(error)})"
        raise reject("", "lora", str(path), expected) from None
