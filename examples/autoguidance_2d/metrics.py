"""What happened to the samples, measured against the exact distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from mixture import OUTLINE, PEAK, Mixture
from torch import Tensor

FAR = PEAK - 8  # 0.05 % of exact samples are less likely
LOST = 0.25  # a branch with less than this share of its probability counts as lost


@dataclass(frozen=True)
class Metrics:
    """Measured on samples that ought to be of class A.

    Attributes:
        outliers: share of the samples outside the class, where log p is below ``OUTLINE``.
        far: share of the samples where log p is below ``FAR``.
        log_density: mean log p(x), which the farthest samples dominate.
        variation: total variation between the branches' shares of the samples and their
            probabilities, that is the share of the samples that belong to another branch.
        lost: share of the 127 branches with less than a quarter of their probability.
        missed: probability of these branches together.
        transport: sliced 2-Wasserstein distance to exact samples.
    """

    outliers: float
    far: float
    log_density: float
    variation: float
    lost: float
    missed: float
    transport: float

    def row(self) -> str:
        """As cells of a table in Markdown."""
        return (
            f"{100 * self.outliers:.2f} % | {100 * self.far:.2f} % | {self.log_density:.2f} | "
            f"{self.variation:.3f} | {100 * self.lost:.0f} % | {100 * self.missed:.1f} % | "
            f"{self.transport:.4f}"
        )


def measure(x: Tensor, exact: Mixture, truth: Tensor) -> Metrics:
    """Metrics of samples x (N, 2); ``truth`` (N, 2) are exact ones."""
    x = x.to(exact.dtype)
    density = exact.log_density(x)
    shares = exact.shares(x).mean(0)
    lost = shares < LOST * exact.weight
    return Metrics(
        (density < OUTLINE).double().mean().item(),
        (density < FAR).double().mean().item(),
        density.mean().item(),
        (shares - exact.weight).abs().sum().item() / 2,
        lost.double().mean().item(),
        exact.weight[lost].sum().item(),
        sliced_distance(x, truth.to(exact.dtype)),
    )


def sliced_distance(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """Sliced 2-Wasserstein distance of N points (N, 2) to N others, over even directions."""
    if a.shape != b.shape:
        raise ValueError(f"a and b are {tuple(a.shape)} and {tuple(b.shape)}; allowed are equals")
    angles = torch.arange(directions, dtype=a.dtype) * (math.pi / directions)
    onto = torch.stack([angles.cos(), angles.sin()])
    gap = (a @ onto).sort(0).values - (b @ onto).sort(0).values
    return gap.square().mean().sqrt().item()
