"""One evaluation of a pipeline: what it called its denoiser with, what was evaluated, and how both
are read and answered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...guidance import POSITIVE, Answers, Branch, Guided, Query, Requests, Step
from ...guidance.engine.denoiser import Conversation
from ...guidance.engine.tensors import put
from ..patch.call_arguments import Inputs
from ..patch.perturb import Changes

Forward = Callable[..., Any]


@dataclass
class StepEvaluation:
    """One evaluation: from the first call of the denoiser to the scheduler's ``step``.

    Attributes:
        requests: what the guider asked for at first.
        conversation: with the guider, see ``guidance.Denoiser.step``.
        pending: the images for which each branch is still to be evaluated.
        network, forward: the denoiser and its own ``__call__``.
        calls: what the denoiser was called with, and what it said, so far.
        prompts: for each of the pipeline's prompts, a call with it and its first row there.
        answers: the branches evaluated so far.
        positive_output: the positive branch's output, of which the latents may be a part.
        first_output: what the first of two forwards returned; g is written into it.
        guided: the answer of the guider, once nothing is pending.
        sent: the guided prediction in the shape of the network's output, (B, ...).
    """

    step: Step
    requests: Requests
    conversation: Conversation
    pending: dict[Branch, list[int]]
    network: Any = None
    forward: Forward | None = None
    calls: list[tuple[Inputs, Any]] = field(default_factory=list)
    prompts: dict[str, tuple[Inputs, int]] = field(default_factory=dict)
    query: Query | None = None
    answers: Answers = field(default_factory=Answers)
    positive_output: Tensor | None = None
    first_output: Tensor | None = None
    guided: Guided | None = None
    sent: Tensor | None = None

    @classmethod
    def begin(cls, step: Step, conversation: Conversation) -> StepEvaluation:
        requests = next(conversation)
        pending = {branch: rows for branch, rows in requests.branches.items() if rows}
        return cls(step, requests, conversation, pending)

    def record_call(self, inputs: Inputs, first_rows: dict[str, int]) -> None:
        """A call of the denoiser, which has these prompts from these rows on."""
        self.calls.append((inputs, None))
        self.prompts |= {prompt: (inputs, row) for prompt, row in first_rows.items()}

    def ready(self) -> list[list[Part]]:
        """What is pending and whose prompts are known, by the forward that it can share: of one
        network, unchanged, from one call; the positive branch alone where it needs gradients.

        It is not pending any more.
        """
        groups: dict[Any, list[Part]] = {}
        first: dict[int, int] = {}
        for branch, images in list(self.pending.items()):
            ways = self.requests.evaluated_as(branch, images)
            parts = [Part(branch, how, rows) for how, rows in ways.items()]
            prompts = [part.prompts for part in parts]
            if not self.prompts.keys() >= {name for names in prompts for name in names}:
                continue
            del self.pending[branch]
            for part, (name, *_) in zip(parts, prompts, strict=True):
                how, alone = part.how, self.requests.through_network and branch == POSITIVE
                call, first[id(part)] = self.prompts[name]
                key = (how.model, how.change, how.beside, how.elsewhere, id(call), alone)
                groups.setdefault(key, []).append(part)
        return [sorted(group, key=lambda part: first[id(part)]) for group in groups.values()]

    def answer(self) -> None:
        """Tell the guider what was evaluated: it asks for more, or answers."""
        assert self.query is not None
        try:
            self.pending |= self.conversation.send((self.query, self.answers)).branches
        except StopIteration as done:
            self.guided = done.value


@dataclass(frozen=True)
class Part:
    """A branch to evaluate for some images, and ``how``, which may be by another branch."""

    branch: Branch
    how: Branch
    images: list[int]

    @property
    def prompts(self) -> list[str]:
        """The pipeline's prompts that it is evaluated from; others replace the positive one."""
        told = (self.how.condition, self.how.beside)
        names = [c if isinstance(c, str) else "positive" for c in told if c is not None]
        return list(dict.fromkeys(names))


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


def with_change(called: Changed, change: Any, forward: Forward, *args: Any, **kwargs: Any) -> Any:
    """A forward with the network changed: within a checkpoint, so that it is when repeated."""
    inputs = Inputs(args, kwargs, called.beside)
    with called.changes.on(called.network, change, inputs) as inner:
        result = forward(*args, **kwargs)
    called.inner = inner or {}
    return result


@dataclass
class Changed:
    """A network that is changed for a call.

    Attributes:
        beside: the call with a second condition, if there is one.
        inner: the tensors from within the network that the change gave.
    """

    changes: Changes
    network: Any
    beside: Inputs | None = None
    inner: dict[str, Tensor] = field(default_factory=dict)


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
    """The opposite of ``call_arguments.choose``: tensors of ``len(rows)`` rows, with zeros for the
    others of ``total``."""
    if isinstance(value, Tensor):
        if value.dim() and len(value) == len(rows):
            return put(value.new_zeros((total, *value.shape[1:])), rows, value)
        return value
    if isinstance(value, dict):
        items = {key: spread(item, rows, total) for key, item in value.items()}
        return type(value)(**items) if type(value) is not dict else items
    if isinstance(value, (tuple, list)):
        return type(value)(spread(item, rows, total) for item in value)
    return value
