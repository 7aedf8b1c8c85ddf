"""Sampling class A with guiders: the networks in, points out."""

from __future__ import annotations

import torch
from guiders import CFG, EDM, Guider, WeakModel, as_network, final, sample
from mixture import Mixture
from torch import Tensor, nn

STEPS = 32
TITLES = {"unguided": "unguided", "CFG": "CFG 4", "autoguidance": "autoguidance 3"}
SAMPLER = EDM(sigma_max=5.0, sigma_min=0.002, rho=7.0)


def methods(both: nn.Module, weak: nn.Module) -> dict[str, Guider]:
    """The guiders that are compared.

    Args:
        both: a network of both classes, in the place of one without its condition.
        weak: a worse network of the same class.
    """
    return {
        "unguided": CFG(1),
        "CFG": CFG(4, reference=WeakModel(both)),
        "autoguidance": CFG(3, reference=WeakModel(weak)),
    }


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(count: int, seed: int = 1) -> Tensor:
    """Points (count, 2) of class A at the highest noise level."""
    return Mixture("A").sample(count, SAMPLER.sigma_max, generator(seed))


def draw(network: nn.Module, guider: Guider, x: Tensor) -> Tensor:
    """The samples (N, 2) of a guided network, from x (N, 2) at the highest noise level."""
    run = sample(as_network(network), SAMPLER, x=x, guider=guider, num_inference_steps=STEPS)
    return final(run).x


def trajectories(network: nn.Module, guider: Guider, x: Tensor, sigma: float) -> Tensor:
    """The paths (STEPS + 1, N, 2) of points x (N, 2) from the noise level ``sigma`` on."""
    run = sample(
        as_network(network), SAMPLER.replace(sigma_max=sigma), x=x, guider=guider,
        num_inference_steps=STEPS,
    )  # fmt: skip
    return torch.stack([x, *(point.x for point in run)])
