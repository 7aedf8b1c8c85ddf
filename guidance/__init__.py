"""The mathematics of guidance: torch only, no pipeline, no I/O beyond JSON."""

from .scales.adaptive import Adaptive, Stale
from .engine.answers import Answers
from .terms.apg import APG
from .transforms.cads import CADS
from .terms.cfg import CFG
from .scales.cfg_plus_plus import CFGPlusPlus
from .terms.cfg_plus_plus_2m import CFGPlusPlus2M
from .terms.cfg_zero import CFGZeroStar
from .engine.config import Config, intents
from .engine.context import Condition, Context
from .engine.denoiser import Denoiser, Guided, Network, foresee
from .terms.fdg import FDG
from .scales.gates import Gate, Interval, StepAG
from .references.gfcg import Confusion
from .terms.gradients import ClassifierGuidance, RewardGuidance
from .engine.guider import Gradient, Guider, Post, Prepare, Sum, Term
from .calibration.resolve import effective_scale, resolve
from .transforms.keep_norm import KeepNorm
from .references.linear_ag import Coefficients, LinearAG
from .terms.mambo_g import MagnitudeAware
from .scales.match import Match
from .references.perturbed import AdapterOff, PerturbedAttention, SkipLayers, SmoothedAttention
from .calibration.profile import Profile
from .engine.record import Diagnosis, Record
from .engine.reference import (
    NEGATIVE,
    POSITIVE,
    Branch,
    Follow,
    Negative,
    Perturbation,
    Reference,
    WeakModel,
)
from .transforms.rescale import Rescale
from .engine.scale import Constant, Cosine, Custom, Linear, PerImage, Scale
from .terms.tcfg import TCFG
from .transforms.thresholding import DynamicThreshold, EnergyPreserving
from .engine.types import Level, Prediction, Query, Readout, Step
from .transforms.zero_init import ZeroInit

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
