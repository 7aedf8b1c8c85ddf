"""Measuring what guidance does to pictures: drawing many, measuring them, comparing guiders."""

from .calibration.advice import Advice, advise
from .metrics.bootstrap import Estimate, bootstrap
from .metrics.colour import clipped, contrast, saturation
from .comparison.compare import Method, compare
from .runs.evaluate import evaluate
from .features.clip import image_features, text_features
from .metrics.estimates import Figure
from .metrics.frechet import Moments, Streamed, frechet_distance
from .metrics.mmd import cmmd, kid
from .runs.manifest import Request
from .metrics.prdc import neighbours
from .features.extractors import Network, load_network
from .runs.plan import Plan
from .calibration.measure import profile
from .storage.prompts import Prompts, load_prompts
from .features.reference_set import Reference, load_reference
from .tuning.tune import Tuning, tune

__all__ = [
    "Advice", "Estimate", "Figure", "Method", "Moments", "Network", "Plan", "Prompts",
    "Reference", "Request", "Streamed", "Tuning", "advise", "bootstrap", "clipped", "cmmd",
    "compare", "contrast", "evaluate", "frechet_distance", "image_features", "kid",
    "load_network", "load_prompts", "load_reference", "neighbours", "profile", "saturation",
    "text_features", "tune",
]  # fmt: skip
