"""Guidance for diffusion models: pluggable guiders over Hugging Face Diffusers."""

from importlib.metadata import version as _version
from typing import Any as _Any

from . import models
from .guidance import (
    APG,
    CFG,
    TCFG,
    Adaptive,
    CFGZeroStar,
    Constant,
    Cosine,
    Custom,
    Guider,
    Interval,
    KeepNorm,
    Linear,
    MagnitudeAware,
    Negative,
    PerImage,
    Rescale,
    Scale,
    Sum,
    WeakModel,
)
from .pipelines import Attachment, Call, guided
from .samplers import EDM, as_network, clean_image, final, read_level, sample

__version__ = _version("guiders")

__all__ = [
    "APG", "CFG", "EDM", "TCFG", "Adaptive", "Attachment", "CFGZeroStar", "Call", "Constant",
    "Cosine", "Custom", "DiffusersRule", "EVODiffMultistepScheduler", "Guider", "Interval",
    "KeepNorm", "Linear", "MagnitudeAware", "Negative", "PerImage", "Rescale", "Scale", "Sum",
    "WeakModel", "__version__", "as_network", "clean_image", "final", "guided", "models",
    "read_level", "sample", "to_diffusers",
]  # fmt: skip


def __getattr__(name: str) -> _Any:
    """What imports much of Diffusers, only where it is asked for."""
    if name in ("DiffusersRule", "to_diffusers"):
        from . import pipelines

        return getattr(pipelines, name)
    if name == "EVODiffMultistepScheduler":
        from . import samplers

        return getattr(samplers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
