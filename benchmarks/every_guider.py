"""One guider of every method, small enough to try them all on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from guiders import (
    APG,
    CADS,
    CFG,
    FDG,
    MPGD,
    TCFG,
    Adaptive,
    CFGPlusPlus,
    CFGPlusPlus2M,
    CFGZeroStar,
    ClassifierGuidance,
    Confusion,
    Cosine,
    DynamicThreshold,
    EnergyPreserving,
    Guider,
    Interval,
    KeepNorm,
    Linear,
    LinearAG,
    MagnitudeAware,
    PerturbedAttention,
    Rescale,
    SkipLayers,
    SmoothedAttention,
    Stale,
    StepAG,
    UniversalGuidance,
    WeakModel,
)
from guiders.guidance import Coefficients
from torch import Tensor

# Match becomes numbers before a run, AdapterOff needs a LoRA in the network, ZeroInit a flow.
WITHOUT = {"AdapterOff", "Match", "ZeroInit"}


def every_guider(
    prompts: Sequence[str], weak: Any, sigma: Sequence[float]
) -> dict[str, Guider | list[Guider]]:
    """Guiders of every method, by name.

    Args:
        prompts: of the two images that will be drawn.
        weak: a network for autoguidance, or its name.
        sigma: the noise levels of the run, of EDM's unit, to which LinearAG is bound.
    """
    names = [*prompts, "a third"]
    return {
        "CFG": CFG(4),
        "CFG, a scale for each image": CFG([1, 6]),
        "a guider for each image": [CFG(3), APG(6)],
        "APG": APG(5),
        "APG + CFG": APG(3) + CFG(3),
        "(APG + CFG) | Rescale": (APG(3) + CFG(3)) | Rescale(0.7),
        "CFG-Zero*": CFGZeroStar(4),
        "TCFG": TCFG(4),
        "FDG": FDG(4),
        "MAMBO-G": MagnitudeAware(4),
        "CFG++": CFG(CFGPlusPlus(0.6)),
        "CFG++ 2M": CFGPlusPlus2M(0.6),
        "Interval": CFG(Interval(4, low=0.3, high=5)),
        "Linear": CFG(Linear(1, 6)),
        "Cosine": APG(Cosine(1, 6)),
        "StepAG": CFG(StepAG(4)),
        "Adaptive": CFG(Adaptive(4, threshold=0.9)),
        "Adaptive in eps": APG(Adaptive(4, threshold=0.99, space="eps")),
        "Stale": CFG(4, reference=Stale(threshold=0.9)),
        "LinearAG": CFG(4, reference=LinearAG(_estimates(sigma))),
        "autoguidance": CFG(2, reference=WeakModel(weak)),
        "PAG": CFG(3, reference=PerturbedAttention()),
        "SEG": CFG(3, reference=SmoothedAttention()),
        "SEG, a finite blur": CFG(3, reference=SmoothedAttention(blur=1.0)),
        "SLG": CFG(3, reference=SkipLayers()),
        "CFG + PAG": CFG(3) + CFG(2, reference=PerturbedAttention()),
        "GFCG": CFG(4, reference=Confusion(names, classify, "latents", threshold=1.0)),
        "classifier guidance": ClassifierGuidance(0.5, log_prob=lambda x, s, p: -square(x)),
        "a reward through the network": CFG(3) + UniversalGuidance(0.05, reward, "latents"),
        "a reward through x0": CFG(3) + MPGD(0.05, reward, "latents", 0.3, 3),
        "CADS": CFG(4) | CADS(),
        "KeepNorm": CFG(4) | KeepNorm(),
        "EP-CFG": CFG(4) | EnergyPreserving(),
        "EP-CFG, of percentiles": CFG(4) | EnergyPreserving(45, 55),
        "DynamicThreshold": CFG(4) | DynamicThreshold(0.95),
    }


def square(x: Tensor) -> Tensor:
    return x.square().flatten(1).mean(dim=1)


def reward(x0: Tensor, prompts: Sequence[str]) -> Tensor:
    return -square(x0)


def classify(x0: Tensor) -> Tensor:
    """Logits (B, 3) of three classes."""
    return 10 * x0.flatten(2).mean(dim=2)[:, :3]


def _estimates(sigma: Sequence[float]) -> Coefficients:
    """Every other reference is the one before, moved as the positive prediction moved."""
    policy = ["true" if index % 2 == 0 else "estimate" for index in range(len(sigma))]
    rows = [[0.0] * 3 if word == "true" else [0.5, -0.5, 1.0] for word in policy]
    return Coefficients(
        torch.tensor(rows, dtype=torch.float64), tuple(sigma), tuple(policy), 4.0, "output"
    )
