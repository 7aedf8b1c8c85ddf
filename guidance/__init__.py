"""The mathematics of guidance: torch only, no pipeline, no I/O beyond JSON."""

from .adaptive import Adaptive, Stale
from .answers import Answers
from .apg import APG
from .cads import CADS
from .cfg import CFG
from .cfg_pp import CFGPlusPlus
from .cfg_pp_2m import CFGPlusPlus2M
from .cfg_zero import CFGZeroStar
from .config import Config, intents
from .context import Condition, Context
from .denoiser import Denoiser, Guided, Network, foresee
from .fdg import FDG
from .gates import Gate, Interval, StepAG
from .gfcg import Confusion
from .gradients import ClassifierGuidance, RewardGuidance
from .guider import Gradient, Guider, Post, Prepare, Sum, Term
from .intent import effective_scale, resolve
from .keep_norm import KeepNorm
from .linear_ag import Coefficients, LinearAG
from .magnitude import MagnitudeAware
from .match import Match
from .perturbed import AdapterOff, PerturbedAttention, SkipLayers, SmoothedAttention
from .profile import Profile
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
from .scale import Constant, Cosine, Custom, Linear, PerImage, Scale
from .tcfg import TCFG
from .thresholding import DynamicThreshold, EnergyPreserving
from .types import Level, Prediction, Query, Readout, Step
from .zero_init import ZeroInit

__all__ = [
    "APG", "CADS", "CFG", "FDG", "NEGATIVE", "POSITIVE", "TCFG", "AdapterOff", "Adaptive",
    "Answers", "Branch", "CFGPlusPlus", "CFGPlusPlus2M", "CFGZeroStar", "ClassifierGuidance",
    "Coefficients", "Condition", "Config", "Confusion", "Constant", "Context", "Cosine",
    "Custom", "Denoiser", "Diagnosis", "DynamicThreshold", "EnergyPreserving", "Follow", "Gate",
    "Gradient", "Guided", "Guider", "Interval", "KeepNorm", "Level", "Linear", "LinearAG",
    "MagnitudeAware", "Match", "Negative", "Network", "PerImage", "Perturbation",
    "PerturbedAttention", "Post", "Prediction", "Prepare", "Profile", "Query", "Readout",
    "Record", "Reference", "Rescale", "RewardGuidance", "Scale", "SkipLayers",
    "SmoothedAttention", "Stale", "Step", "StepAG", "Sum", "Term", "WeakModel", "ZeroInit",
    "effective_scale", "foresee", "intents", "resolve",
]  # fmt: skip
