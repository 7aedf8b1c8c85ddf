"""A Gaussian mixture, whose denoiser is known exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Mixture(nn.Module):
    """K Gaussians in D dimensions, and everything about them at every noise level.

    Noise of spread sigma makes each covariance C into ``C + sigma^2``, so the score, the clean
    image and the density of ``x = x0 + sigma * noise`` are closed formulas. It is a plain denoiser,
    ``mixture(x, sigma)`` or ``mixture(x, sigma, labels)``, and differentiable.

    Args:
        means: (K, D).
        covariances: (K, D, D), (K,) variances, or one variance for all.
        weights: (K,), in any unit; ``None`` is equal.
        labels: (K,) whole numbers from 0: the class of each Gaussian; ``None`` is one class.

    Raises:
        ValueError: the shapes do not belong together, or a covariance is not positive definite.
    """

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor | float,
        weights: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        super().__init__()
        count, width = means.shape
        spread = torch.as_tensor(covariances, dtype=means.dtype)
        if spread.dim() < 3:
            spread = spread.expand(count)[:, None, None] * torch.eye(width, dtype=means.dtype)
        weights = means.new_ones(count) if weights is None else weights.to(means.dtype)
        labels = torch.zeros(count, dtype=torch.long) if labels is None else labels
        for name, value, shape in (
            ("covariances", spread, (count, width, width)),
            ("weights", weights, (count,)),
            ("labels", labels, (count,)),
        ):
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; allowed is {shape}")
        variances, axes = torch.linalg.eigh(spread)
        if not variances.min() > 0:
            raise ValueError(
                f"covariances has an eigenvalue of {variances.min():g}; allowed is above 0"
            )
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)  # (K, D), along
        self.register_buffer("axes", axes)  # (K, D, D), a column each
        self.register_buffer("log_weights", weights.log() - weights.sum().log())
        self.register_buffer("labels", labels)
        self.means: Tensor
        self.variances: Tensor
        self.axes: Tensor
        self.log_weights: Tensor
        self.labels: Tensor

    def forward(self, x: Tensor, sigma: float, labels: Tensor | None = None) -> Tensor:
        """The clean image, ``E[x0 | x]``: (B, ...).

        Args:
            x: (B, ...) of D elements each.
            sigma: in EDM's unit.
            labels: the class of each image, (B,); -1 or ``None`` is all of them.
        """
        flat = x.flatten(1)
        along, joint = self._along(flat, sigma, labels)
        share = joint.softmax(dim=1)
        variances = self.variances.to(x.dtype)
        shrunk = along * (variances / (variances + sigma**2))
        parts = self.means.to(x.dtype) + torch.einsum("kde,bke->bkd", self.axes.to(x.dtype), shrunk)
        return torch.einsum("bk,bkd->bd", share, parts).view_as(x)

    def log_density(self, x: Tensor, sigma: float = 0.0, labels: Tensor | None = None) -> Tensor:
        """``log p(x; sigma)`` of x (B, ...): (B,)."""
        return self._along(x.flatten(1), sigma, labels)[1].logsumexp(dim=1)

    def score(self, x: Tensor, sigma: float, labels: Tensor | None = None) -> Tensor:
        """The gradient of the log-density (B, ...), ``(D(x) - x) / sigma^2``; sigma above 0."""
        return (self(x, sigma, labels) - x) / sigma**2

    def posterior(self, x: Tensor, sigma: float, labels: Tensor | None = None) -> Tensor:
        """How probable each Gaussian is for each x (B, ...): (B, K)."""
        return self._along(x.flatten(1), sigma, labels)[1].softmax(dim=1)

    def draw(
        self,
        count: int,
        generator: torch.Generator | None = None,
        sigma: float = 0.0,
        label: int = -1,
    ) -> Tensor:
        """Samples (count, D) of one class or of all, at noise level sigma.

        They are drawn where the generator is, and are where the mixture is.
        """
        means = self.means
        device = means.device if generator is None else generator.device
        log_weights = self.log_weights
        if label >= 0:
            log_weights = log_weights.masked_fill(self.labels != label, -math.inf)
        weights = log_weights.exp().to(device)
        chosen = torch.multinomial(weights, count, True, generator=generator).to(means.device)
        shape = (count, means.shape[1])
        noise = torch.randn(shape, dtype=means.dtype, generator=generator, device=device)
        noise = noise.to(means.device)
        spread = (self.variances[chosen] + sigma**2).sqrt()
        return means[chosen] + torch.einsum("bde,be->bd", self.axes[chosen], spread * noise)

    def _along(self, x: Tensor, sigma: float, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """x relative to each mean along its axes (B, K, D), and the joint log-density (B, K)."""
        means, axes = self.means.to(x.dtype), self.axes.to(x.dtype)
        # rotated one by one: the difference of two rotated vectors loses digits at small sigma
        along = torch.einsum("kde,bkd->bke", axes, x[:, None] - means)
        spread = self.variances.to(x.dtype) + sigma**2
        width = x.shape[1]
        density = -0.5 * ((along**2 / spread).sum(-1) + spread.log().sum(-1))
        joint = density - 0.5 * width * math.log(2 * math.pi) + self.log_weights.to(x.dtype)
        if labels is not None:
            inside = (labels[:, None] < 0) | (self.labels == labels[:, None])
            # a class has weight 1, whatever its share of all
            joint = joint.masked_fill(~inside, -math.inf)
            own = self.log_weights.to(x.dtype).expand_as(joint).masked_fill(~inside, -math.inf)
            joint = joint - own.logsumexp(dim=1, keepdim=True)
        return along, joint
