"""The mathematics of guidance: torch only, no pipeline, no I/O beyond JSON."""

from .apg import APG
from .cfg import CFG
from .cfg_zero import CFGZeroStar
from .config import Config
from .denoiser import Denoiser, Guided, Network, Record, foresee
from .guider import Guider, Post, Sum, Term
from .keep_norm import KeepNorm
from .magnitude import MagnitudeAware
from .reference import POSITIVE, Branch, Negative, Reference, WeakModel
from .rescale import Rescale
from .scale import Adaptive, Constant, Cosine, Custom, Gate, Interval, Linear, PerImage, Scale
from .tcfg import TCFG
from .types import Level, Prediction, Query, Readout, Step

__all__ = [
    "APG", "CFG", "POSITIVE", "TCFG", "Adaptive", "Branch", "CFGZeroStar", "Config", "Constant",
    "Cosine", "Custom", "Denoiser", "Gate", "Guided", "Guider", "Interval", "KeepNorm", "Level",
    "Linear", "MagnitudeAware", "Negative", "Network", "PerImage", "Post", "Prediction", "Query",
    "Readout", "Record", "Reference", "Rescale", "Scale", "Step", "Sum", "Term", "WeakModel",
    "foresee",
]  # fmt: skip
