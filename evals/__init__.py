"""Measuring what guidance does to pictures: drawing many, measuring them, comparing guiders."""

from .calibration.advice import Advice, advise
from .calibration.measure import profile
from .comparison.compare import Method, compare
from .features.clip import image_features, text_features
from .features.extractors import Network, load_network
from .features.reference_set import Reference, load_reference
from .metrics.bootstrap import Estimate, bootstrap
from .metrics.colour import clipped, contrast, saturation
from .metrics.estimates import Figure
from .metrics.frechet import Moments, Streamed, frechet_distance
from .metrics.mmd import cmmd, kid
from .metrics.prdc import neighbours
from .runs.evaluate import evaluate
from .runs.manifest import Request
from .runs.plan import Plan
from .storage.prompts import Prompts, load_prompts
from .tuning.tune import Tuning, tune

__all__ = [
    "Advice", "Estimate", "Figure", "Method", "Moments", "Network", "Plan", "Prompts",
    "Reference", "Request", "Streamed", "Tuning", "advise", "bootstrap", "clipped", "cmmd",
    "compare", "contrast", "evaluate", "frechet_distance", "image_features", "kid",
    "load_network", "load_prompts", "load_reference", "neighbours", "profile", "saturation",
    "text_features", "tune",
]  # fmt: skip
