"""Measuring what guidance does to pictures."""

from .colour import clipped, contrast, saturation

__all__ = ["clipped", "contrast", "saturation"]
