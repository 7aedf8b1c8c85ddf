"""A small denoiser of points in the plane."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

SIGMA_DATA = 0.5


class Linear(nn.Module):
    """Rows of unit length, whatever the size of the weights, and no bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def unit(self, weight: Tensor) -> Tensor:
        """Rows of root mean square 1."""
        size = weight.norm(dim=1, keepdim=True) / weight.shape[1] ** 0.5
        return weight / (size + 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.unit(self.weight) / self.weight.shape[1] ** 0.5).T


class LogDensity(nn.Module):
    """A denoiser ``network(x, sigma) -> x0`` whose score is the gradient of a log density.

    log p(x; sigma) is, up to a constant, a parabola of the data's spread plus what is learnt:

    ``mean(y^2) * gain / sigma - |x_n|^2 / 2`` with ``x_n = x / sqrt(sigma_data^2 + sigma^2)`` and y
    five linear layers, the first of ``(x_n, log(sigma) / 4, 1)``, with SiLU between them. The gain
    starts at 0.

    Args:
        width: of the hidden layers.
        seed: of the first weights.
    """

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [4, width, width, width, width, width]
            self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The clean points (N, 2) behind x (N, 2): ``x + sigma^2 * score``, in the type of x."""
        level = torch.as_tensor(sigma, dtype=torch.float32).expand(len(x))
        return x + level[:, None].to(x.dtype) ** 2 * self.score(x.float(), level)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Up to a constant of each sigma, (N,) for points (N, 2) and levels (N,)."""
        sigma = sigma[:, None]
        x = x / (SIGMA_DATA**2 + sigma**2).sqrt()
        y = torch.cat([x, sigma.log() / 4, torch.ones_like(sigma)], dim=1)
        for number, layer in enumerate(self.layers):
            y = layer(functional.silu(y) / 0.596 if number else y)
        learnt = y.square().mean(1) * self.gain / sigma[:, 0]
        return learnt - x.square().sum(1) / 2

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The gradient of ``log_density`` in x, (N, 2), differentiable where gradients are on."""
        with_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            density = self.log_density(x, sigma).sum()
            return torch.autograd.grad(density, x, create_graph=with_graph)[0]

    @torch.no_grad()
    def normalise(self) -> None:
        """Make all weights of unit size, before every training step, so that its size holds."""
        for layer in self.layers:
            layer.weight.copy_(layer.unit(layer.weight))
