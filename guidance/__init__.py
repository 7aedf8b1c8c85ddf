"""The mathematics of guidance: torch only, no pipeline, no I/O beyond JSON."""

from .calibration.profile import Profile
from .calibration.resolve import effective_scale, resolve
from .engine.answers import Answers
from .engine.config import Config, intents
from .engine.context import Condition, Context
from .engine.denoiser import Denoiser, Guided, Network, foresee
from .engine.guider import Gradient, Guider, Post, Prepare, Sum, Term
from .engine.levels import Level, Readout, Step
from .engine.predictions import Prediction, Query
from .engine.record import Diagnosis, Record
from .engine.reference import NEGATIVE, POSITIVE, Branch, Follow, Negative, Perturbation, Reference
from .engine.scale import Constant, Custom, Gate, PerImage, Scale
from .references.adapter_off import AdapterOff
from .references.autoguidance import WeakModel
from .references.gfcg import Confusion
from .references.linear_ag import Coefficients, LinearAG
from .references.perturbed_attention import PerturbedAttention
from .references.skip_layers import SkipLayers
from .references.smoothed_energy import SmoothedAttention
from .references.stale import Stale
from .scales.adaptive import Adaptive
from .scales.cfg_plus_plus import CFGPlusPlus
from .scales.cosine import Cosine
from .scales.interval import Interval
from .scales.linear import Linear
from .scales.match import Match
from .scales.step_ag import StepAG
from .terms.apg import APG
from .terms.cfg import CFG
from .terms.cfg_plus_plus_2m import CFGPlusPlus2M
from .terms.cfg_zero import CFGZeroStar
from .terms.fdg import FDG
from .terms.gradients import ClassifierGuidance, RewardGuidance
from .terms.mambo_g import MagnitudeAware
from .terms.tcfg import TCFG
from .transforms.cads import CADS
from .transforms.dynamic_threshold import DynamicThreshold
from .transforms.ep_cfg import EnergyPreserving
from .transforms.keep_norm import KeepNorm
from .transforms.rescale import Rescale
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
