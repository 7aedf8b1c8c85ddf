"""Noise levels and clean images read from Diffusers schedulers."""

from .families import FAMILIES, REFUSED, Family
from .noise_level import (
    Reading,
    clean_image,
    is_supported,
    position,
    read_level,
    readout_at,
    solver_stage,
    steps_ahead,
    why_refused,
)
from .readouts import READOUTS

__all__ = [
    "FAMILIES", "READOUTS", "REFUSED", "Family", "Reading", "clean_image", "is_supported",
    "position", "read_level", "readout_at", "solver_stage", "steps_ahead", "why_refused",
]  # fmt: skip
