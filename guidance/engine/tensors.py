"""Batches of images (B, ...): types, rows, gradients."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


def differentiable(on: bool = True) -> AbstractContextManager[None]:
    """Record gradients inside, even under a caller's ``no_grad`` or ``inference_mode``."""
    return _recording() if on else nullcontext()


@contextmanager
def _recording() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


def leaf_of(tensor: Tensor) -> Tensor:
    """A copy to differentiate by, whatever mode the tensor was made in."""
    with differentiable():
        return tensor.detach().clone().requires_grad_()


def upcast(tensor: Tensor) -> Tensor:
    """In at least float32, in which all guidance arithmetic is done."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def wide_type(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that have no more."""
    return torch.float32 if device.type == "mps" else torch.float64


def wide(tensor: Tensor) -> Tensor:
    """In float64 where the device has it; for a few numbers for each image."""
    return tensor.to(wide_type(tensor.device))


def append_dims(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ..., 1) in the type of ``like`` (B, ...)."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


@functools.lru_cache(maxsize=256)
def on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Host numbers on a device, copied there once: a copy makes the host wait for the device.

    It is shared by all who ask for the same: do not write into it.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def take(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """``tensor[rows]``; a view where the rows follow each other."""
    if not len(rows):
        return tensor[:0]
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows) and list(rows) == list(range(first, last + 1)):
        return tensor if len(rows) == len(tensor) else tensor[first : last + 1]
    return tensor[on_device(tuple(rows), torch.long, tensor.device)]


def put(tensor: Tensor, rows: Sequence[int], value: Tensor) -> Tensor:
    """A copy of ``tensor`` with ``value`` in ``rows``."""
    if list(rows) == list(range(len(tensor))):
        return value
    if not len(rows):
        return tensor
    return tensor.index_copy(0, on_device(tuple(rows), torch.long, tensor.device), value)
