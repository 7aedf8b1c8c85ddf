"""Guidance for diffusion models: pluggable guiders over Hugging Face Diffusers."""

from importlib.metadata import version as _version
from typing import Any as _Any

from . import models
from .guidance import (
    APG,
    CADS,
    CFG,
    FDG,
    TCFG,
    AdapterOff,
    Adaptive,
    CFGPlusPlus,
    CFGPlusPlus2M,
    CFGZeroStar,
    ClassifierGuidance,
    Condition,
    Confusion,
    Constant,
    Context,
    Cosine,
    Custom,
    DynamicThreshold,
    EnergyPreserving,
    Guider,
    Interval,
    KeepNorm,
    Linear,
    LinearAG,
    MagnitudeAware,
    Match,
    Negative,
    PerImage,
    PerturbedAttention,
    Profile,
    Reference,
    Rescale,
    RewardGuidance,
    Scale,
    SkipLayers,
    SmoothedAttention,
    Stale,
    StepAG,
    Sum,
    Term,
    WeakModel,
    ZeroInit,
    resolve,
)
from .pipelines import Attachment, Call, guided
from .samplers import EDM, SADA, as_network, clean_image, final, read_level, sample

__version__ = _version("guiders")

__all__ = [
    "APG", "CADS", "CFG", "EDM", "FDG", "SADA", "TCFG", "AdapterOff", "Adaptive", "Attachment",
    "CFGPlusPlus", "CFGPlusPlus2M", "CFGZeroStar", "Call", "ClassifierGuidance", "Condition",
    "Confusion", "Constant", "Context", "Cosine", "Custom", "DiffusersRule", "DynamicThreshold",
    "EVODiffMultistepScheduler", "EnergyPreserving", "Guider", "Interval", "KeepNorm", "Linear",
    "LinearAG", "MagnitudeAware", "Match", "Negative", "PerImage", "PerturbedAttention",
    "Profile", "Reference", "Rescale", "RewardGuidance", "Scale", "SkipLayers",
    "SmoothedAttention", "Stale", "StepAG", "Sum", "Term", "WeakModel", "ZeroInit",
    "__version__", "as_network", "clean_image", "final", "guided", "models", "profile",
    "read_level", "resolve", "sample", "to_diffusers",
]  # fmt: skip


def __getattr__(name: str) -> _Any:
    """What imports much of Diffusers, only where it is asked for."""
    if name in ("DiffusersRule", "to_diffusers"):
        from . import pipelines

        return getattr(pipelines, name)
    if name == "EVODiffMultistepScheduler":
        from . import samplers

        return getattr(samplers, name)
    if name == "profile":
        from . import evals

        return evals.profile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
