"""The bridge to Diffusers' own guiders: ours in their loops, theirs as a rule in ours.

Modular Diffusers, and six classic pipelines with a ``guider`` of their own, evaluate one branch
after the other and let a ``BaseGuidance`` combine the outputs. ``to_diffusers`` makes such an
object of any guider of this library.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import Tensor

from ...guidance import (
    NEGATIVE,
    POSITIVE,
    Answers,
    Branch,
    Denoiser,
    Gradient,
    Guider,
    Negative,
    Prediction,
    Prepare,
    Query,
    Readout,
    Record,
    Reference,
    Step,
    Term,
)
from ...guidance.engine.config import reject
from ...guidance.engine.state import Rows
from ...guidance.engine.vectors import Number
from ...samplers import readout_at, steps_ahead
from ..patch.call_arguments import Inputs, crop
from ..patch.class_swap import restore, swap
from ..patch.perturb import Changes
from ..patch.weak_models import second_network
from .evaluation import common_shape


def to_diffusers(guider: Guider, scheduler: Any, negated: bool = False) -> DiffusersGuidance:
    """``guider`` as a ``BaseGuidance`` of Diffusers.

    Args:
        guider: any guider of this library.
        scheduler: the scheduler of the pipeline it will work in: it knows the noise level.
        negated: does the pipeline negate the network's output after the guider?

    Raises:
        ValueError: ``guider`` is not a guider.
    """
    if not isinstance(guider, Guider):
        raise ValueError(f"guider is {guider!r}; allowed is a Guider such as CFG(7.5)")
    _check(guider)
    try:
        stored = guider.to_dict()
    except ValueError:  # a function or a network in it: it works, but is not saved
        stored = {}
    guidance = DiffusersGuidance(stored, negated)
    return guidance.bind(scheduler, guider)


def _check(guider: Guider) -> None:
    """Refuse what those loops cannot do: they evaluate fixed branches, without gradients.

    Raises:
        ValueError: what it is, and why.
    """
    for term in guider.terms:
        if isinstance(term, Gradient):
            raise reject("to_diffusers", "guider", str(term), "terms without gradients")
        if any(reference.needs_positive for reference in term.references):
            allowed = "references that are known before the positive prediction is"
            raise reject("to_diffusers", "guider", str(term), allowed)
    for prepare in guider.prepares:
        if type(prepare).positive is not Prepare.positive:
            allowed = "guiders that leave the positive branch's network as it is"
            raise reject("to_diffusers", "guider", str(prepare), allowed)
        if prepare.tells:
            allowed = "guiders that leave the prompt's embedding as it is"
            raise reject("to_diffusers", "guider", str(prepare), allowed)


class DiffusersGuidance(BaseGuidance):
    """A guider of this library in the loops of Diffusers.

    Loaded by ``from_pretrained`` it has to be given the scheduler: ``bind(pipe.scheduler)``.

    Attributes:
        records: what happened at each evaluation of the latest run.
    """

    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012

    @register_to_config
    def __init__(self, guider: dict[str, Any], negated: bool = False) -> None:
        super().__init__()
        self.records: list[Record] = []
        self._guider = Guider.from_dict(guider) if guider else None
        self._sign = -1 if negated else 1
        self._scheduler: Any = None
        self._denoiser: Denoiser | None = None
        self._steps: dict[int, Step] = {}  # by the loop's own count
        self._seen: float = math.inf
        self._requests: dict[Branch, list[int]] = {}
        self._conversation: Any = None  # with the denoiser, at this step
        self._x: Tensor | None = None
        self._changes = Changes()

    def bind(self, scheduler: Any, guider: Guider | None = None) -> DiffusersGuidance:
        """Say which scheduler the pipeline steps; returns itself."""
        self._scheduler, self._guider = scheduler, guider or self._guider
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Write ``guider_config.json``.

        Raises:
            ValueError: the guider holds a function or a network.
        """
        if not self.config.guider:
            self._bound().to_dict()  # says what it is
        return super().save_pretrained(*args, **kwargs)

    def new(self, **kwargs: Any) -> DiffusersGuidance:
        """A copy for the same scheduler, with other settings where named."""
        settings = {"guider": self.config.guider, "negated": self.config.negated, **kwargs}
        copy = type(self)(**settings)
        return copy.bind(self._scheduler, None if "guider" in kwargs else self._guider)

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        """Called by the loop before each evaluation; one that is not later begins a new run."""
        super().set_state(step, num_inference_steps, timestep)
        if step <= self._seen:  # a second guider of the same run does not see its first steps
            self._denoiser, self.records, self._changes = None, [], Changes()
        if self._denoiser is None:
            ahead = steps_ahead(self._scheduler_of(), float(torch.as_tensor(timestep)))
            self._steps = dict(enumerate(ahead, start=step))
        self._seen = step
        self._x = None

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        """The inputs of each branch that this step needs."""
        pairs = data.values()
        batch = self._plan(value[0] if isinstance(value, tuple) else value for value in pairs)
        return [self._prepare_batch(data, index, name) for index, name in batch]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        """The same for pipelines that keep their inputs in a block state."""
        names = (f if isinstance(f, str) else f[0] for f in input_fields.values())
        batch = self._plan(getattr(data, name, None) for name in names)
        return [
            self._prepare_batch_from_block_state(input_fields, data, index, name)
            for index, name in batch
        ]

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        """Before each branch: see what the network sees, or call a weak model in its place."""
        super().prepare_models(denoiser)
        branch = self._current()

        def look(original: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
            inputs = Inputs(args, kwargs)
            if self._x is None:
                self._x = inputs.x
            model = second_network(branch.model, network, inputs.x)
            answer = functools.partial(original, network) if model is None else model
            with self._changes.on(network, branch.change, inputs):
                return answer(*args, **kwargs)

        swap(denoiser, {"__call__": look})

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        """After each branch."""
        restore(denoiser)

    def __call__(self, data: list[Any]) -> GuiderOutput:
        """Combine what the loop stored as ``noise_pred`` of each branch."""
        return self.forward(**{getattr(d, self._identifier_key): d.noise_pred for d in data})

    def forward(self, **outputs: Tensor) -> GuiderOutput:
        """The guided output (B, ...) of those of the branches."""
        positive = outputs["pred_cond"]
        if not self._enabled:
            return GuiderOutput(pred=positive, pred_cond=positive, pred_uncond=None)
        if self._denoiser is None or self._x is None:
            raise RuntimeError(
                "the guider did not see what the network was called with; allowed are loops that "
                "call set_state, prepare_inputs and prepare_models, and then the network itself"
            )
        step = self._steps[self._step]
        shape = common_shape(None, self._x.shape[1:], positive.shape[1:])
        q = Query(crop(self._x, shape), step)
        answers = {
            branch: Prediction(q.x, crop(output, shape), self._readout(branch, step))
            for branch, output in zip(self._requests, outputs.values(), strict=True)
        }
        said = Answers()
        said.add(self._requests, answers)
        try:
            self._conversation.send((q, said))
            raise AssertionError("a guider asked for more than its loop evaluates")
        except StopIteration as done:
            guided = done.value
        self.records.append(guided.record)
        pred = guided.output
        if pred.shape != positive.shape:
            pred = positive.clone()
            crop(pred, shape).copy_(guided.output)
        # QwenImage's loop gives the result the norm of pred_cond: this leaves it as it is.
        return GuiderOutput(pred=pred, pred_cond=pred, pred_uncond=outputs.get("pred_uncond"))

    @property
    def is_conditional(self) -> bool:
        """Is the current branch one of the positive prompt?"""
        return self._current().condition == "positive"

    @property
    def num_conditions(self) -> int:
        """2 if the guider may ever ask for the negative prompt: loops encode it only then."""
        references = [r for term in self._bound().terms for r in term.references]
        needed = [reference.branch().condition for reference in references]
        return 2 if self._enabled and "negative" in needed else 1

    def _plan(self, values: Any) -> list[tuple[int, str]]:
        """For each branch of this step: the prompt's index in a pair, and a name."""
        if not self._enabled:
            self._requests = {POSITIVE: []}
        else:
            if self._denoiser is None:
                rows = next(len(value) for value in values if isinstance(value, (Tensor, list)))
                self._denoiser = Denoiser(self._bound(), rows)
            self._conversation = self._denoiser.step(self._steps[self._step])
            requests = next(self._conversation).branches
            everyone = list(range(self._denoiser.batch))  # the loops know no rows
            self._requests = dict.fromkeys(requests, everyone)
        names = {POSITIVE: "pred_cond", NEGATIVE: "pred_uncond"}
        return [
            (int(branch.condition == "negative"), names.get(branch, f"pred_{number}"))
            for number, branch in enumerate(self._requests)
        ]

    def _current(self) -> Branch:
        return list(self._requests)[self._count_prepared - 1] if self._requests else POSITIVE

    def _readout(self, branch: Branch, step: Step) -> Readout:
        readout = readout_at(self._scheduler_of(), step.level, branch.prediction_type)
        return Readout(readout.skip, readout.gain * (1 if branch.prediction_type else self._sign))

    def _bound(self) -> Guider:
        if self._guider is None:
            raise ValueError(
                "guider was not stored with this guidance; allowed is bind(..., guider)"
            )
        return self._guider

    def _scheduler_of(self) -> Any:
        if self._scheduler is None:
            raise ValueError("scheduler is not known yet; call bind(pipe.scheduler) first")
        return self._scheduler


@dataclass(frozen=True)
class DiffusersRule(Term):
    """A guider of Diffusers as a term: ``DiffusersRule(ClassifierFreeZeroStarGuidance(5))``.

    It combines the network's outputs as it does in Diffusers, with its own scale and its own start
    and stop; ``scale`` here only gates it (1 is off).

    Attributes:
        rule: a ``BaseGuidance`` that needs the two predictions and nothing else.
    """

    rule: Any = None
    scale: Any = 0
    reference: Reference = field(default_factory=Negative)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self.rule)
        if (
            not isinstance(self.rule, BaseGuidance)
            or self.rule._input_predictions != ["pred_cond", "pred_uncond"]
            or kind.prepare_models is not BaseGuidance.prepare_models  # it changes the network
        ):
            allowed = "a guider of Diffusers that only combines two predictions"
            raise reject(self, "rule", kind.__name__, allowed)

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Tensor:
        """See ``Term.delta``."""
        self.rule.set_state(q.step.index, q.step.total, None)
        self.rule.prepare_inputs({})  # where some of them begin their memory afresh
        output = reference.output_as(positive.readout).to(positive.output.dtype)
        if self.rule.num_conditions == 1:
            pred = self.rule.forward(positive.output).pred
        else:
            pred = self.rule.forward(positive.output, output).pred
        return positive.readout.gain * (pred.float() - positive.output.float())

    def to_dict(self) -> Any:
        raise ValueError(
            f"DiffusersRule: a guider of Diffusers ({type(self.rule).__name__}) is not stored as "
            "JSON; use its own save_pretrained"
        )

    def __str__(self) -> str:
        return f"{type(self.rule).__name__} of Diffusers"
