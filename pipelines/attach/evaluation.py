"""One evaluation of a pipeline: what it called its denoiser with, what was evaluated, and how both
are read and answered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...guidance import POSITIVE, Answers, Branch, Guided, Query, Step
from ...guidance.engine.denoiser import Conversation, Requests
from ..patch.call_arguments import Inputs
from ..patch.perturb import changed

Forward = Callable[..., Any]


@dataclass
class Turn:
    """One evaluation: from the first call of the denoiser to the scheduler's ``step``.

    Attributes:
        requests: what the guider asked for at first.
        conversation: with the guider, see ``guidance.Denoiser.step``.
        waiting: those still to be evaluated.
        network, forward: the denoiser and its own ``__call__``.
        calls: what the denoiser was called with, and what it said, so far.
        held: for each of the pipeline's prompts, a call with it and its first row there.
        answers: the branches evaluated so far.
        whole: the positive branch's output, of which the latents may be a part.
        first: what the first of two forwards returned; g is written into it.
    """

    step: Step
    requests: Requests
    conversation: Conversation
    waiting: dict[Branch, list[int]]
    network: Any = None
    forward: Forward | None = None
    calls: list[tuple[Inputs, Any]] = field(default_factory=list)
    held: dict[str, tuple[Inputs, int]] = field(default_factory=dict)
    q: Query | None = None
    answers: Answers = field(default_factory=Answers)
    whole: Tensor | None = None
    first: Tensor | None = None
    guided: Guided | None = None
    value: Tensor | None = None


def role_of(branch: Branch) -> str:
    """Which of the pipeline's prompts a branch is evaluated from; others replace the positive."""
    return branch.condition if isinstance(branch.condition, str) else "positive"


def forwards(
    branches: Sequence[Branch], held: dict[str, tuple[Inputs, int]], apart: bool
) -> list[list[Branch]]:
    """Branches by the forward they can share: of one network, unchanged, from one call; the
    positive one alone where it is ``apart``."""
    groups: dict[Any, list[Branch]] = {}
    for branch in branches:
        inputs, _ = held[role_of(branch)]
        key = (branch.model, branch.change, id(inputs), apart and branch == POSITIVE)
        groups.setdefault(key, []).append(branch)
    return [sorted(group, key=lambda b: held[role_of(b)][1]) for group in groups.values()]


def common_shape(
    known: Sequence[int] | None, seen: Sequence[int], said: Sequence[int]
) -> tuple[int, ...]:
    """The shape of one image's latents within what the network sees and says."""
    if len(seen) != len(said):
        raise ValueError(
            f"the denoiser returns {tuple(said)} for {tuple(seen)}; allowed is as many dimensions"
        )
    common = tuple(map(min, seen, said))
    if known is not None and len(known) == len(common):
        return tuple(map(min, known, common))
    return common


def output_of(result: Any) -> Tensor:
    """The prediction in what a denoiser returns: it, or the first of several."""
    return result if isinstance(result, Tensor) else result[0]


def owned(value: Tensor) -> Tensor:
    """A tensor to write into: a copy where gradients need what is in it."""
    return value.clone() if value.requires_grad else value


def with_change(network: Any, change: Any, forward: Forward, *args: Any, **kwargs: Any) -> Any:
    """A forward with the network changed: within a checkpoint, so that it is when repeated."""
    with changed(network, change, Inputs(args, kwargs)):
        return forward(*args, **kwargs)


def is_changed(forward: Forward) -> bool:
    """Is it a forward of a network that is changed for it?"""
    partial = isinstance(forward, functools.partial) and forward.func is with_change
    return partial and forward.args[1] is not None  # type: ignore[attr-defined]


def rewrap(template: Any, value: Tensor, named: bool = False) -> Any:
    """``value`` in the form in which the denoiser answers.

    Args:
        named: where that is not known, is it a structure and not a tuple?
    """
    if isinstance(template, Tensor):
        return value
    if template is None and named:  # the network was never asked: both ways of reading it work
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=value)
    if template is None:
        return (value,)
    if isinstance(template, tuple):
        return (value, *template[1:])
    return type(template)(value)


def spread(value: Any, rows: Sequence[int], total: int) -> Any:
    """The opposite of ``choose``: tensors of ``len(rows)`` rows with zeros for the others."""
    if isinstance(value, Tensor):
        if value.dim() and len(value) == len(rows):
            out = value.new_zeros((total, *value.shape[1:]))
            out[torch.as_tensor(rows, device=value.device)] = value
            return out
        return value
    if isinstance(value, dict):
        items = {key: spread(item, rows, total) for key, item in value.items()}
        return type(value)(**items) if type(value) is not dict else items
    if isinstance(value, (tuple, list)):
        return type(value)(spread(item, rows, total) for item in value)
    return value
