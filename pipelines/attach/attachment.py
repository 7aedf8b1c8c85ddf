"""A guider on a pipeline: what ``guided`` makes, and its ``with`` gives."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from ...guidance import (
    Guider,
    Profile,
    Record,
    Step,
    Term,
    foresee,
    intents,
    resolve,
)
from ...samplers import SADA, check_solver, steps_ahead
from ..context.context import Captured, PipelineContext
from ..patch.call_arguments import Inputs
from ..patch.class_swap import is_swapped, restore, swap
from ..patch.parts import DENOISERS, parts_of
from ..patch.perturb import Changes
from ..presets.find import profile_of
from .cache import needs_every_row
from .call import Call, title
from .complaints import never_guided, warnings_of, why_no_negative
from .evaluation import Forward
from .layouts import Form, form_of
from .run import Run, RunSettings


@dataclass(frozen=True)
class Options:
    """What ``guided`` was told beside the guiders, see there; ``single``: was it one guider?"""

    single: bool = True
    quiet: bool = False
    diagnose: bool = False
    cosines: bool = False
    gradients: bool = False
    skip: SADA | None = None
    profile: Profile | None = None


class Attachment:
    """A guider on a pipeline: what ``guided`` makes, and its ``with`` gives.

    Attributes:
        calls: one ``Call`` for each call of the pipeline since it was attached.
        guiders: with the explicit numbers of the latest run, where they were given by intent.
        around: what every evaluation of a network goes through, ``around(forward)`` in place of
            ``forward``; reward backpropagation checkpoints there.
    """

    def __init__(self, pipe: Any, guiders: Sequence[Guider], options: Options) -> None:
        self.calls: list[Call] = []
        self.around: Callable[[Forward], Forward] = lambda forward: forward
        self.guiders = list(guiders)
        self._pipe, self._options = pipe, options
        self._given = list(guiders)  # with their intent, of which each run makes numbers
        self._settled: tuple[Any, Any] | None = None  # the run whose numbers the guiders have
        self._capturing = self._running = False
        self._context = PipelineContext(pipe)
        self._form: Form | None = form_of(pipe)
        self._parts = parts_of(pipe)
        self._run: Run | None = None
        self._asked: dict[str, Any] = {}
        self._latents: torch.Size | None = None
        self._said: set[str] = set()
        self._thread: int | None = None  # that of the ``with``

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        if any(map(is_swapped, (self._pipe, *self._parts.values()))):
            raise RuntimeError(
                f"a guider is attached to this {self._name}, or to one that shares its parts, "
                "already; leave its `with` first, or add the guiders: `CFG(5) + APG(3)`"
            )
        try:
            self.attach()
        except BaseException:
            self.detach()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def __del__(self) -> None:
        if getattr(self, "_thread", 0) is None and not sys.is_finalizing():
            warnings.warn(
                "guided(pipe, guider) was never entered, so that nothing was guided; write "
                "`with guided(pipe, guider) as run:`",
                stacklevel=2,
            )

    @property
    def last(self) -> Call:
        """The latest call.

        Raises:
            RuntimeError: the pipeline has not been called yet.
        """
        if not self.calls:
            raise RuntimeError("the pipeline has not been called since the guider was attached")
        return self.calls[-1]

    @property
    def guider(self) -> Guider | Sequence[Guider]:
        """The guider, or the list of them."""
        return self.guiders[0] if self._options.single else self.guiders

    @property
    def nfe(self) -> float:
        """Network evaluations per image of the latest call."""
        return self.last.nfe

    @property
    def records(self) -> list[Record]:
        """What happened at each evaluation of the latest call."""
        return self.last.records

    def __str__(self) -> str:
        """A table of the latest call, one line for each evaluation."""
        if not self.calls:
            return f"{title(self.guiders)}: not called yet"
        head = f"{title(self.guiders)}: {self.nfe:g} evaluations per image"
        return f"{head}\n{self.last.table()}"

    def attach(self) -> None:
        methods: dict[str, Callable[..., Any]] = {"__call__": self._call}
        if hasattr(self._pipe, "prepare_latents"):
            methods["prepare_latents"] = self._prepare
        self._swap(self._pipe, methods)
        for name, part in self._parts.items():
            if name == "scheduler":
                self._swap(part, {"set_timesteps": self._begin, "step": self._commit})
            elif name == "controlnet":
                self._swap(part, {"__call__": self._control})
            else:
                self._swap(part, {"__call__": self._evaluate})

    def _swap(self, target: Any, methods: dict[str, Callable[..., Any]]) -> None:
        """``swap``, for the thread of the ``with`` alone."""
        kind = type(target).__name__

        def here(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if threading.get_ident() != self._thread:
                    raise RuntimeError(
                        f"this {kind} was called from another thread than the `with guided(...)` "
                        f"that guides its {self._name}; allowed is the thread of the `with`, or a "
                        "pipeline of its own, with its own parts, for each thread"
                    )
                return method(*args, **kwargs)

            return call

        if patched := sorted(
            vars(target).keys() & methods.keys() - {"__call__", "prepare_latents"}
        ):
            raise ValueError(
                f"the {kind} of {self._name} has a {patched[0]} of its own, set on the object, "
                "which hides it from the guider; allowed is a subclass, or setting it inside the "
                "`with guided(...)`"
            )
        swap(target, {name: here(method) for name, method in methods.items()})

    def detach(self) -> None:
        for target in (self._pipe, *self._parts.values()):
            restore(target)

    def _call(self, original: Any, pipe: Any, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's ``__call__``: only what happens within is guided."""
        if self._running or self._capturing:
            raise RuntimeError(
                f"this {self._name} was called within its own call, from a callback perhaps; "
                "allowed is one call after the other while a guider is attached"
            )
        if self._options.gradients:
            original = inspect.unwrap(original)  # without its torch.no_grad()
        there = parts_of(pipe)
        for name, part in self._parts.items():
            if there.get(name) is not part:
                raise RuntimeError(
                    f"the {type(part).__name__} of {self._name} was replaced inside "
                    "`with guided(...)`; allowed before it"
                )
        try:
            signature = inspect.signature(original)
            bound = signature.bind(pipe, *args, **kwargs)
            bound.apply_defaults()
            self._asked = dict(bound.arguments)
            for parameter in signature.parameters.values():
                if parameter.kind == parameter.VAR_KEYWORD:
                    self._asked |= self._asked.pop(parameter.name)
        except TypeError:
            self._asked = {}  # the pipeline says what is wrong
        self._latents = None
        self._prepare_context(functools.partial(original, pipe))
        self.calls.append(Call())
        self._running = True
        try:
            result = original(pipe, *args, **kwargs)
            if self._run is not None:
                self._run.finish()
            if self.last.records:
                self._say_if_never_guided()
            else:
                raise RuntimeError(
                    f"{self._name} did not evaluate its denoiser and step its scheduler in a way "
                    "that can be guided"
                )
            return result
        finally:
            self._running, self._run = False, None

    def _say_if_never_guided(self) -> None:
        """A guider that found nothing to do is easily taken for one that does not work."""
        if len(self.records) != len(self.last.steps) or "never guided" in self._said:
            return
        references = [reference for term in self._terms for reference in term.references]
        if not (text := never_guided(self._terms, self.records)):
            return
        if any(reference.needs_positive for reference in references):
            self._say(f"{title(self.guiders)}: no image was confused, so none was guided")
        else:
            self._said.add("never guided")
            self._warn(f"{title(self.guiders)} {text}")

    @property
    def _terms(self) -> list[Term]:
        return [term for guider in self.guiders for term in guider.terms]

    def _prepare_context(self, call: Any) -> None:
        """Learn how the network is told the prompts that the guider may ask for."""
        references = [reference for term in self._terms for reference in term.references]
        prompts = [prompt for reference in references for prompt in reference.prompts]
        self._capturing = True
        try:
            self._context.prepare(call, self._asked, prompts)
        finally:
            self._capturing, self._latents = False, None

    def _prepare(self, original: Any, pipe: Any, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's ``prepare_latents``: how many images of what shape."""
        result = original(pipe, *args, **kwargs)
        latents = result[0] if isinstance(result, (tuple, list)) else result
        if isinstance(latents, Tensor):
            self._latents = latents.shape
        return result

    def _begin(self, original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's ``set_timesteps``: a new run, with fresh memory."""
        if self._running:
            if self._run is not None:
                self._run.finish()
            self._run = None
        return original(scheduler, *args, **kwargs)

    def _commit(self, original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's ``step``: the evaluation is over."""
        if self._running and self._run is not None:
            if args:
                args = (self._run.commit(args[0]), *args[1:])
            else:
                kwargs["model_output"] = self._run.commit(kwargs["model_output"])
            self._form = self._run.inferred or self._form
        return original(scheduler, *args, **kwargs)

    def _evaluate(self, original: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's ``__call__``: the guided prediction in place of the network's."""
        if self._capturing:
            raise Captured(Inputs(args, kwargs))
        run, inputs = self._inside(network, args, kwargs)
        return run.evaluate(network, functools.partial(original, network), inputs)

    def _control(self, original: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The ControlNet's ``__call__``: it is asked for no more than the denoiser."""
        if self._capturing:
            return original(network, *args, **kwargs)
        run, inputs = self._inside(network, args, kwargs)
        return run.control(self.around(functools.partial(original, network)), inputs)

    def _inside(self, network: Any, args: Any, kwargs: Any) -> tuple[Run, Inputs]:
        if not self._running:
            raise RuntimeError(
                f"this {type(network).__name__} has a guider attached through a {self._name} and "
                "was called from elsewhere; leave the `with guided(...)` first, or guide that one"
            )
        inputs = Inputs(args, kwargs)
        on = self._negative_is_on()
        if self._run is None:
            self._run = self._start(inputs, on)
        if on != self._run.doubled:
            raise RuntimeError(
                f"{self._name} switched its negative branch in mid-run; to stop guiding early use "
                "Interval or Adaptive"
            )
        return self._run, inputs

    def _start(self, inputs: Inputs, doubled: bool) -> Run:
        """The first evaluation of a run: check that it can work, say the plan, make the memory."""
        pipe, options, scheduler = self._pipe, self._options, self._parts["scheduler"]
        batch = self._images(inputs, doubled)
        self._context.spread(batch)
        steps = steps_ahead(scheduler, inputs.time, getattr(pipe, "num_timesteps", None))
        latents = None if self._latents is None else self._latents[1:]
        self.guiders = self._resolved(steps, latents)
        if options.skip is not None:
            check_solver(scheduler, float(self._asked.get("eta") or 0))

        # What will be asked for has to be there.
        plans = foresee(self.guiders, steps, batch)
        prepares = [prepare for guider in self.guiders for prepare in guider.prepares]
        changed = {b for p in prepares for step in steps if (b := p.positive(step)) is not None}
        branches = {branch for plan in plans for branch in plan} | changed
        asks = any("negative" in (branch.condition, branch.beside) for branch in branches)
        negative = options.diagnose or asks
        if negative and not doubled:
            needs = "the guider needs" if asks else "diagnose=True needs"
            raise ValueError(why_no_negative(pipe, self._asked, needs))
        for change in {branch.change for branch in branches if branch.change}:
            for name in self._parts.keys() & set(DENOISERS):
                Changes().find(self._parts[name], change)

        for text in warnings_of(pipe, self._asked, self.guiders, negative, doubled):
            self._warn(text)
        if getattr(pipe, "guidance_rescale", 0):  # it would act on the guided prediction
            pipe._guidance_rescale = 0.0
        self.last.images, self.last.latents = batch, latents
        self.last.steps += steps
        most = sum(len(rows) for plan in plans for rows in plan.values()) / batch
        self._say(
            f"{title(self.guiders)}; {sum(step.stage == 0 for step in steps)} steps; at most "
            f"{most:g} evaluations per image"
        )
        settings = RunSettings(
            name=self._name,
            guiders=self.guiders,
            scheduler=scheduler,
            form=self._form,
            steps=steps,
            batch=batch,
            doubled=doubled,
            shape=latents,
            rigid="".join(needs_every_row(part, self._form) for part in self._parts.values()),
            context=self._context,
            diagnose=options.diagnose,
            cosines=options.cosines,
            skip=options.skip,
        )
        return Run(settings, self.last.records, self.around)

    def _resolved(self, steps: Sequence[Step], latents: Sequence[int] | None) -> list[Guider]:
        """The guiders with numbers in place of intent; looked up again for another run alone."""
        given, skip = self._given, self._options.skip
        if not intents(given) or self._settled == (steps, latents):
            return self.guiders
        text = self._asked.get("negative_prompt") or ""
        negative = text if isinstance(text, str) else next(filter(None, text), "")
        how = "" if skip is None else str(skip)
        profile = profile_of(self._pipe, steps, given, self._options.profile, negative, how)
        self._settled = steps, latents
        return [resolve(one, profile, steps, latents) for one in given]

    def _images(self, inputs: Inputs, doubled: bool) -> int:
        """How many images the run has."""
        rows = inputs.rows
        if self._latents is not None and rows in (self._latents[0], 2 * self._latents[0]):
            return int(self._latents[0])
        if not doubled or (self._form is not None and self._form.passes == 2):
            return rows
        half, x = rows // 2, inputs.x
        if self._form is None and not (rows % 2 == 0 and torch.equal(x[:half], x[half:])):
            return rows  # the same latents twice make two branches of one forward
        return half

    def _negative_is_on(self) -> bool:
        """Does the pipeline evaluate its negative branch?"""
        pipe, asked = self._pipe, self._asked
        if hasattr(type(pipe), "do_classifier_free_guidance"):
            return bool(pipe.do_classifier_free_guidance)
        if "true_cfg_scale" in asked:
            given = (asked.get("negative_prompt"), asked.get("negative_prompt_embeds"))
            return asked["true_cfg_scale"] > 1 and any(value is not None for value in given)
        scale = asked.get("guidance_scale")
        return scale is not None and scale > 1

    def _say(self, line: str) -> None:
        if line not in self._said and not self._options.quiet:
            tqdm.write(line, file=sys.stderr)
        self._said.add(line)

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self._name}: {text}", stacklevel=2)

    @property
    def _name(self) -> str:
        return type(self._pipe).__name__
