"""Diffusers' own guiders, at work on predictions without a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from torch import Tensor


def diffusers_guiders(positive: Tensor, negative: Tensor) -> dict[str, Callable[[], Any]]:
    """Combinations of these predictions (B, ...), with the settings of CFG 7.5 and APG 7.5."""
    cfg = ClassifierFreeGuidance(guidance_scale=7.5)
    apg = AdaptiveProjectedGuidance(
        guidance_scale=7.5, adaptive_projected_guidance_momentum=-0.5, eta=0.0
    )
    apg.momentum_buffer = MomentumBuffer(-0.5)
    both = {"pred_cond": positive, "pred_uncond": negative}
    return {
        "Diffusers' CFG, alone": lambda: cfg.forward(**both),
        "Diffusers' APG, alone": lambda: apg.forward(**both),
    }
