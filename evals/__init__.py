"""Measuring what guidance does to pictures: drawing many, measuring them, comparing guiders."""

from .advice import Advice, advise
from .bootstrap import Estimate, bootstrap
from .colour import clipped, contrast, saturation
from .comparison import Method, compare
from .evaluation import evaluate
from .features import image_features, text_features
from .figures import Figure
from .frechet import Moments, Streamed, frechet_distance
from .kernel import cmmd, kid
from .manifest import Request
from .manifolds import neighbours
from .networks import Network, load_network
from .plan import Plan
from .profiling import profile
from .prompts import Prompts, load_prompts
from .reference import Reference, load_reference
from .tuning import Tuning, tune

__all__ = [
    "Advice", "Estimate", "Figure", "Method", "Moments", "Network", "Plan", "Prompts",
    "Reference", "Request", "Streamed", "Tuning", "advise", "bootstrap", "clipped", "cmmd",
    "compare", "contrast", "evaluate", "frechet_distance", "image_features", "kid",
    "load_network", "load_prompts", "load_reference", "neighbours", "profile", "saturation",
    "text_features", "tune",
]  # fmt: skip
