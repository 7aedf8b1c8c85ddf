"""Noise levels and clean images read from Diffusers schedulers."""

from .noise_level import (
    Reading,
    clean_image,
    is_supported,
    read_level,
    readout_at,
    solver_stage,
    steps_ahead,
)

__all__ = [
    "Reading", "clean_image", "is_supported", "read_level", "readout_at", "solver_stage",
    "steps_ahead",
]  # fmt: skip
