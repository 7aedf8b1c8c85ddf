"""Muon: momentum whose matrices are made orthogonal before they are applied.

Every direction of a matrix learns at the same speed, so what few pictures ask for (a rare word's
shape) is learnt in far fewer steps than by Adam (Jordan et al. 2024, "Muon: an optimizer for hidden
layers in neural networks"; the Newton-Schulz coefficients are theirs). The step's size is matched
to Adam's as in Liu et al. 2025, arXiv:2502.16982, equation 4: its root mean square is 0.2.

A convolution's kernel is the matrix of its output channels by everything else. Several processes
make a part of the matrices orthogonal each and add the parts up.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch import distributed as dist

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5: singular values go to 0.7 ... 1.2
SMALLEST = 24  # narrower ones (the output's) are left to Adam


def is_matrix(parameter: nn.Parameter) -> bool:
    """Has it at least ``SMALLEST`` rows and columns, seen as a matrix?"""
    rows = parameter.shape[0] if parameter.ndim > 1 else 0
    return rows >= SMALLEST and parameter.numel() // rows >= SMALLEST


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly U V^T of ``matrix`` (M, N) = U S V^T, by Newton-Schulz in bfloat16."""
    x = matrix.bfloat16()
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, orthogonal; decoupled weight decay. All parameters are matrices."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        several = dist.is_initialized() and dist.get_world_size() > 1
        rank, processes = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
        for group in self.param_groups:
            params, momentum = group["params"], group["momentum"]
            sizes = [p.numel() for p in params]
            flat = torch.zeros(sum(sizes), device=params[0].device)
            updates = flat.split(sizes)
            owners = shares(sizes, processes)
            for p, update, owner in zip(params, updates, owners, strict=True):
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - momentum)
                if owner == rank:
                    ahead = p.grad.lerp(average, momentum).flatten(1)
                    update.copy_(orthogonal(ahead).flatten())
            if several:
                dist.all_reduce(flat)
            for p, update in zip(params, updates, strict=True):
                size = 0.2 * max(len(p), p.numel() // len(p)) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(update.view_as(p), alpha=group["lr"] * size)


def shares(sizes: list[int], processes: int) -> list[int]:
    """Which process works on which matrix: the largest first, to whom has least."""
    loads, owners = [0] * processes, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += sizes[index]
    return owners
