"""Arithmetic on batches of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .types import wide


@contextmanager
def differentiable(on: bool = True) -> Iterator[None]:
    """Record gradients inside, even under a caller's ``no_grad`` or ``inference_mode``."""
    if not on:
        yield
        return
    with torch.inference_mode(False), torch.enable_grad():
        yield


def leaf_of(tensor: Tensor) -> Tensor:
    """A copy to differentiate by, whatever mode the tensor was made in."""
    with differentiable():
        return tensor.detach().clone().requires_grad_()


def working(tensor: Tensor) -> Tensor:
    """In at least float32, in which all guidance arithmetic is done."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def take(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """``tensor[rows]``, and the tensor itself where that is all of it in order."""
    if list(rows) == list(range(len(tensor))):
        return tensor
    return tensor[torch.as_tensor(rows, device=tensor.device, dtype=torch.long)]


def put(tensor: Tensor, rows: Sequence[int], value: Tensor) -> Tensor:
    """A copy of ``tensor`` with ``value`` in ``rows``."""
    if list(rows) == list(range(len(tensor))):
        return value
    index = torch.as_tensor(rows, device=tensor.device, dtype=torch.long)
    return tensor.index_copy(0, index, value)


def per_image(values: Sequence[float], like: Tensor) -> Tensor:
    """Host numbers as (B, 1, ..., 1), to multiply a tensor (B, ...)."""
    tensor = torch.tensor(values, dtype=like.dtype, device=like.device)
    return tensor.view(-1, *[1] * (like.dim() - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product over all but the batch dimension, (B,) in float64 where there is one."""
    return (wide(a) * wide(b)).flatten(1).sum(dim=1)


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ..., 1) in the type of ``like`` (B, ...)."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of two batches of images (B, ...), per image: (B,). Zero vectors give 0."""
    norms = (dot(a, a) * dot(b, b)).sqrt()
    return dot(a, b) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
