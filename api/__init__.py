"""Guidance for diffusion models: pluggable guiders over Hugging Face Diffusers."""

from importlib.metadata import version as _version
from typing import Any as _Any

from . import models
from .guidance import METHODS as _METHODS
from .guidance import (
    Condition,
    Constant,
    Context,
    Custom,
    Guider,
    Negative,
    PerImage,
    Profile,
    Reference,
    Scale,
    Sum,
    Term,
    resolve,
)
from .pipelines import Attachment, Call, guided
from .samplers import EDM, SADA, as_network, clean_image, final, read_level, sample

__version__ = _version("guiders")

globals().update(_METHODS)
_LATER = {  # what imports much of Diffusers, only where it is asked for
    "DiffusersRule": "pipelines",
    "EVODiffMultistepScheduler": "samplers",
    "profile": "evals",
    "to_diffusers": "pipelines",
}
_PARTS = {"guidance", "pipelines", "samplers"}  # subpackages, which importing them leaves here
__all__ = sorted({n for n in globals() if n[0] != "_"} - _PARTS | {*_LATER, "__version__"})


def __getattr__(name: str) -> _Any:
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
