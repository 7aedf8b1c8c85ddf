"""Noise levels and clean images read from Diffusers schedulers; sampling loops of our own."""

from typing import Any as _Any

from .edm import EDM
from .families import FAMILIES, REFUSED, Family
from .mixture import Mixture
from .networks import as_network
from .noise_level import (
    Reading,
    adds_noise,
    clean_image,
    is_first_order,
    is_supported,
    position,
    read_level,
    readout_at,
    solver_stage,
    steps_ahead,
    why_refused,
)
from .readouts import READOUTS
from .sada import SADA, Accelerated, check_solver
from .sample import Point, final, sample

__all__ = [
    "EDM", "FAMILIES", "READOUTS", "REFUSED", "SADA", "Accelerated",
    "EVODiffMultistepScheduler", "Family", "Mixture", "Point", "Reading", "adds_noise",
    "as_network", "check_solver", "clean_image", "final", "is_first_order", "is_supported",
    "position", "read_level", "readout_at", "sample", "solver_stage", "steps_ahead",
    "why_refused",
]  # fmt: skip


def __getattr__(name: str) -> _Any:
    """What imports Diffusers, only where it is asked for."""
    if name == "EVODiffMultistepScheduler":
        from .evodiff import EVODiffMultistepScheduler

        return EVODiffMultistepScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
