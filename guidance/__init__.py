"""The mathematics of guidance: torch only, no pipeline, no I/O beyond JSON."""

from .answers import Answers
from .apg import APG
from .cfg import CFG
from .cfg_zero import CFGZeroStar
from .config import Config
from .context import Condition, Context
from .denoiser import Denoiser, Guided, Network, foresee
from .guider import Gradient, Guider, Post, Prepare, Sum, Term
from .keep_norm import KeepNorm
from .magnitude import MagnitudeAware
from .record import Diagnosis, Record
from .reference import (
    NEGATIVE,
    POSITIVE,
    Branch,
    Follow,
    Negative,
    Perturbation,
    Reference,
    WeakModel,
)
from .rescale import Rescale
from .scale import Adaptive, Constant, Cosine, Custom, Gate, Interval, Linear, PerImage, Scale
from .tcfg import TCFG
from .types import Level, Prediction, Query, Readout, Step

__all__ = [
    "APG", "CFG", "NEGATIVE", "POSITIVE", "TCFG", "Adaptive", "Answers", "Branch",
    "CFGZeroStar", "Condition", "Config", "Constant", "Context", "Cosine", "Custom", "Denoiser",
    "Diagnosis", "Follow", "Gate", "Gradient", "Guided", "Guider", "Interval", "KeepNorm",
    "Level", "Linear", "MagnitudeAware", "Negative", "Network", "PerImage", "Perturbation",
    "Post", "Prediction", "Prepare", "Query", "Readout", "Record", "Reference", "Rescale",
    "Scale", "Step", "Sum", "Term", "WeakModel", "foresee",
]  # fmt: skip
