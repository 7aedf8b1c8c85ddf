"""The arguments of a denoiser's call: which are the latents and the time, and how to take rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...guidance.engine.tensors import put, take

LATENTS = ("hidden_states", "sample", "x", "latents")  # what Diffusers' denoisers call them
TIMES = ("timestep", "timesteps", "t")
# Positions, not images: these have as many rows as there are tokens.
SHARED = ("image_rotary_emb", "rotary_embedding", "text_rotary_emb", "img_ids", "txt_ids")
LISTS = ("img_shapes", "txt_seq_lens")  # an item for each row; other lists are for each network
EMBEDDINGS = ("encoder_hidden_states", "pooled_projections", "text_embeds", "image_embeds")
# Made by a ControlNet from the latents, or a scale that is told to distilled networks.
COMPUTED = ("residual", "block_samples", "guidance", "timestep_cond")
REPEATED = ("encoder_hidden_states",)  # may have several rows for each one: the frames of a video


@dataclass(frozen=True)
class Inputs:
    """One call of a denoiser by a pipeline; ``beside`` is one with a second condition, if any."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    beside: Inputs | None = None

    @functools.cached_property
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

    def cast(self, dtype: torch.dtype) -> Inputs:
        """The same in another type: all that is of the latents' own, but times and positions."""
        own = self.x.dtype
        if own == dtype:
            return self

        def visit(value: Any, name: str = "") -> Any:
            if name in (*TIMES, *SHARED):
                return value
            if isinstance(value, Tensor):
                return value.to(dtype) if value.dtype == own else value
            if isinstance(value, dict):
                return {key: visit(item, key) for key, item in value.items()}
            if isinstance(value, (tuple, list)):
                return type(value)(map(visit, value))
            return value

        args = tuple(a if position == 1 else visit(a) for position, a in enumerate(self.args))
        return Inputs(args, visit(self.kwargs))

    def differentiable(self, x: Tensor) -> Inputs:
        """The same with other latents, and nothing in it that autograd refuses to save."""
        return Inputs(*_normal((self.args, self.kwargs))).with_x(x)

    def with_x(self, x: Tensor) -> Inputs:
        """The same with other latents."""
        if self.args:
            return Inputs((x, *self.args[1:]), self.kwargs)
        name = next(name for name in LATENTS if name in self.kwargs)
        return Inputs((), {**self.kwargs, name: x})

    def told(self, others: Sequence[Inputs | None]) -> Inputs:
        """The same latents and time, with what other calls of one row tell the network.

        Args:
            others: for each row the call to take it from; ``None`` keeps its own.
        """
        told = _Told(len(others))
        args = tuple(
            value
            if position < 2
            else told(value, [None if o is None else o.args[position] for o in others], "")
            for position, value in enumerate(self.args)
        )
        kwargs = {
            name: told(value, [None if o is None else o.kwargs.get(name) for o in others], name)
            for name, value in self.kwargs.items()
        }
        if not told.found:
            raise ValueError(
                "the denoiser is told nothing that depends on the prompt; allowed is a pipeline "
                "that tells it, as a tensor with a row for each image"
            )
        return Inputs(args, kwargs)

    def embedded(self, rows: Sequence[int], change: Callable[[str, Tensor], Tensor]) -> Inputs:
        """The same with changed embeddings of the prompt in some rows.

        Args:
            change: (name, embedding (rows, ...)) to the new one.

        Raises:
            ValueError: there is no embedding among the arguments.
        """
        found = []

        def visit(value: Any, name: str) -> Any:
            if isinstance(value, dict):
                return {key: visit(item, key) for key, item in value.items()}
            if name in EMBEDDINGS and isinstance(value, Tensor) and value.dim():
                each, rest = divmod(len(value), self.rows)
                if each and not rest and (each == 1 or name in REPEATED):
                    found.append(name)
                    by_row = value.unflatten(0, (self.rows, each))  # the same for every frame
                    new = change(name, take(by_row[:, 0], rows))[:, None].expand_as(
                        take(by_row, rows)
                    )
                    return put(by_row, rows, new).flatten(0, 1)
            return value

        kwargs = {name: visit(value, name) for name, value in self.kwargs.items()}
        if not found:
            raise ValueError(
                "the denoiser is told no embedding of a prompt "
                f"({', '.join(EMBEDDINGS)}); allowed is a pipeline that tells it one"
            )
        return Inputs(self.args, kwargs)

    def _argument(self, position: int, names: Sequence[str]) -> Any:
        if len(self.args) > position:
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), None)


def _normal(value: Any) -> Any:
    """A nest without inference tensors, which autograd does not save."""
    if isinstance(value, Tensor):
        if not value.is_inference():
            return value
        with torch.inference_mode(False):
            return value.clone()
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(_normal, value))
    return value


class _Told:
    """Takes the rows of other calls, of one row each, into what a call of ``rows`` rows tells.

    Attributes:
        found: names of the arguments that were replaced.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.found: list[str] = []

    def __call__(self, value: Any, others: Sequence[Any], name: str) -> Any:
        kept = name in (*LATENTS, *TIMES, *SHARED) or any(word in name for word in COMPUTED)
        if kept or all(other is None for other in others):
            return value
        if isinstance(value, dict):
            return {
                key: self(item, [None if o is None else o.get(key) for o in others], key)
                for key, item in value.items()
            }
        if not isinstance(value, Tensor) or not value.dim():
            return value
        each, rest = divmod(len(value), self.rows)
        if rest or not each or (each != 1 and name not in REPEATED):
            return value
        own = value.unflatten(0, (self.rows, each))
        parts = [mine if other is None else other for mine, other in zip(own, others, strict=True)]
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"{name or 'an argument'} of the denoiser has shapes {sorted(shapes)} for "
                "different prompts; allowed are prompts that the pipeline pads to one length"
            )
        self.found.append(name)
        return torch.cat([part.to(value.device, value.dtype) for part in parts])


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
        return take(value.unflatten(0, (total, each)), rows).flatten(0, 1)
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
