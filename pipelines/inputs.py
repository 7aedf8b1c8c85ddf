"""The arguments of a denoiser's call: which are the latents and the time, and how to take rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LATENTS = ("hidden_states", "sample", "x", "latents")  # what Diffusers' denoisers call them
TIMES = ("timestep", "timesteps", "t")
# Positions, not images: these have as many rows as there are tokens.
SHARED = ("image_rotary_emb", "rotary_embedding", "text_rotary_emb", "img_ids", "txt_ids")
LISTS = ("img_shapes", "txt_seq_lens")  # an item for each row; other lists are for each network
REPEATED = ("encoder_hidden_states",)  # may have several rows for each one: the frames of a video


@dataclass(frozen=True)
class Inputs:
    """One call of a denoiser by a pipeline."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def x(self) -> Tensor:
        """What the network sees, (rows, ...).

        Raises:
            ValueError: it is not one tensor.
        """
        x = self._argument(0, LATENTS)
        if not isinstance(x, Tensor):
            raise ValueError(
                f"the denoiser was called with latents of type {type(x).__name__}; "
                "allowed is a tensor"
            )
        return x

    @property
    def time(self) -> float:
        """The time as the network is told it, which need not be the scheduler's."""
        time = self._argument(1, TIMES)
        return float(time.flatten()[0] if isinstance(time, Tensor) else time)

    @property
    def rows(self) -> int:
        return len(self.x)

    def take(self, rows: Sequence[int]) -> Inputs:
        """These arguments for some of the rows; the same where that is all of them in order."""
        if list(rows) == list(range(self.rows)):
            return self
        args, kwargs = choose((self.args, self.kwargs), rows, self.rows)
        return Inputs(args, kwargs)

    def _argument(self, position: int, names: Sequence[str]) -> Any:
        if len(self.args) > position:
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), None)


def choose(value: Any, rows: Sequence[int], total: int, name: str = "") -> Any:
    """Take ``rows`` of every tensor with ``total`` rows in a nest of tuples, lists and dicts.

    ``name`` is that of the argument, where it has one.
    """
    if name in SHARED:
        return value
    if isinstance(value, Tensor):
        if not value.dim() or not len(value):
            return value
        each, rest = divmod(len(value), total)
        if rest or (each != 1 and name not in REPEATED):
            return value
        index = torch.as_tensor(rows, device=value.device, dtype=torch.long)
        return value.unflatten(0, (total, each))[index].flatten(0, 1)
    if isinstance(value, dict):
        return {key: choose(item, rows, total, key) for key, item in value.items()}
    if isinstance(value, list) and name in LISTS and len(value) == total:
        return [value[row] for row in rows]
    if isinstance(value, (tuple, list)):
        return type(value)(choose(item, rows, total) for item in value)
    return value


def crop(value: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of the leading part of (rows, ...): the latents come first, then masks or tokens.

    Where the shape has another number of dimensions, all of it.
    """
    if len(shape) != value.dim() - 1:
        return value
    return value[(slice(None), *(slice(size) for size in shape))]
