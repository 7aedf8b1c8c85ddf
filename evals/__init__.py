"""Measuring what guidance does to pictures."""

from .bootstrap import Estimate, bootstrap
from .colour import clipped, contrast, saturation
from .features import image_features, text_features
from .frechet import Moments, Streamed, frechet_distance

__all__ = [
    "Estimate",
    "Moments",
    "Streamed",
    "bootstrap",
    "clipped",
    "contrast",
    "frechet_distance",
    "image_features",
    "saturation",
    "text_features",
]
