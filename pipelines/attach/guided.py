"""Attach a guider to a stock Diffusers pipeline: ``with guided(pipe, guider) as run:``."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from ...guidance import (
    NEGATIVE,
    Constant,
    Gate,
    Guider,
    PerImage,
    Profile,
    Record,
    Step,
    Term,
    foresee,
    intents,
    resolve,
)
from ...guidance.engine.config import reject
from ...samplers import SADA, check_solver, is_first_order, is_supported, read_level, steps_ahead
from ..context.context import Captured, PipelineContext
from ..patch.call_arguments import Inputs
from ..patch.class_swap import is_swapped, restore, swap
from ..patch.parts import DENOISERS, parts_of
from ..patch.perturb import check_change
from ..presets.find import profile_of
from .cache import needs_every_row
from .evaluation import Forward
from .layouts import Form, check_dtype, form_of
from .run import Run


@dataclass
class Call:
    """One call of the pipeline.

    Attributes:
        images: number of images; 0 until the first evaluation.
        steps: every evaluation that was planned.
        records: what happened at each evaluation so far.
        latents: the shape of one image's, where the pipeline makes them in a way we see.
    """

    images: int = 0
    steps: list[Step] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    latents: torch.Size | None = None

    @property
    def evaluations(self) -> list[int]:
        """For each image, the network evaluations it was given."""
        counts = [record.evaluations for record in self.records]
        return [sum(column) for column in zip(*counts, strict=True)]

    @property
    def nfe(self) -> float:
        """Network evaluations per image, on average over the images of the call."""
        return sum(self.evaluations) / self.images if self.records else 0.0


class Attachment:
    """A guider on a pipeline: what ``guided`` makes, and its ``with`` gives.

    Attributes:
        calls: one ``Call`` for each call of the pipeline since it was attached.
        guider: with the explicit numbers of the latest run, where it was given by intent.
        around: what every evaluation of a network goes through, ``around(forward)`` in place of
            ``forward``; reward backpropagation checkpoints there.
    """

    def __init__(
        self,
        pipe: Any,
        guider: Guider | Sequence[Guider],
        quiet: bool,
        diagnose: bool = False,
        gradients: bool = False,
        accelerate: SADA | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self.around: Callable[[Forward], Forward] = lambda forward: forward
        self._gradients, self._accelerate = gradients, accelerate
        self._pipe, self._guider, self._quiet = pipe, guider, quiet
        self._wanted, self._profile = guider, profile
        self._settled: tuple[Any, Any] | None = None  # the run whose numbers the guider has
        self._diagnose, self._capturing = diagnose, False
        self._context = PipelineContext(pipe)
        self._form: Form | None = form_of(pipe)
        self._parts = parts_of(pipe)
        self._run: Run | None = None
        self._asked: dict[str, Any] = {}
        self._latents: torch.Size | None = None
        self._running = False
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
        return self._guider

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
            return f"{_title(self._guider)}: not called yet"
        lines = [f"{_title(self._guider)}: {self.nfe:g} evaluations per image"]
        lines.append(f"{'step':>4} {'sigma':>8}  {'scale':>18}  {'cosine':>9}  evaluations")
        for record in self.records:
            shown = sorted({"+".join(f"{s:g}" for s in scales) for scales in record.scales})
            cosines = " ".join(map(_mean, zip_longest(*record.cosines)))
            lines.append(
                f"{record.index:>4} {record.sigma:>8.3f}  {', '.join(shown):>18}  {cosines:>9}  "
                f"{sum(record.evaluations)} for {len(record.evaluations)}"
            )
        return "\n".join(lines)

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
        if self._gradients:
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
        complete = len(self.records) == len(self.last.steps)
        if not complete or any(len(r.skipped) < len(r.evaluations) for r in self.records):
            return
        references = [term.reference for term in self._terms]
        if any(reference is not None and reference.needs_positive for reference in references):
            if not self._quiet:
                self._say(f"{_title(self._guider)}: no image was confused, so none was guided")
        elif not all(map(_is_off, self._terms)) and "never guided" not in self._said:
            self._said.add("never guided")
            levels = [record.sigma for record in self.records]
            self._say_warning(
                f"{_title(self._guider)} guided no image at any step (sigma went from "
                f"{levels[0]:.4g} to {levels[-1]:.4g})"
            )

    @property
    def _terms(self) -> list[Term]:
        guiders = [self._guider] if isinstance(self._guider, Guider) else self._guider
        return [term for guider in guiders for term in guider.terms]

    def _prepare_context(self, call: Any) -> None:
        """Learn how the network is told the prompts that the guider may ask for."""
        references = [term.reference for term in self._terms]
        prompts = [p for r in references if r is not None for p in r.prompts]
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
            self._form = self._run.learnt or self._form
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
        batch = self._images(inputs, doubled)
        self._context.spread(batch)
        count = getattr(self._pipe, "num_timesteps", None)
        steps = steps_ahead(self._scheduler, inputs.time, count)
        latents = None if self._latents is None else self._latents[1:]
        self._guider = self._resolved(steps, latents)
        self.last.latents = latents
        if self._accelerate is not None:
            check_solver(self._scheduler, float(self._asked.get("eta") or 0))
        plans = foresee(self._guider, steps, batch)
        negative = self._diagnose or any(NEGATIVE in plan for plan in plans)
        if negative and not doubled:
            asks = any(NEGATIVE in plan for plan in plans)
            raise ValueError(
                self._why_single("the guider needs" if asks else "diagnose=True needs")
            )
        for change in {branch.change for plan in plans for branch in plan if branch.change}:
            for name in self._parts.keys() & set(DENOISERS):
                check_change(self._parts[name], change)
        self._warn(negative, doubled)
        rigid = "".join(needs_every_row(part, self._form) for part in self._parts.values())
        self.last.images = batch
        self.last.steps += steps
        most = sum(len(rows) for plan in plans for rows in plan.values()) / batch
        line = (
            f"{_title(self._guider)}; {sum(step.stage == 0 for step in steps)} steps; "
            f"at most {most:g} evaluations per image"
        )
        if not self._quiet:
            self._say(line)
        return Run(
            self._name, self._guider, self._scheduler, self._form, steps, batch, doubled, latents,
            rigid, self.last.records, self.around, self._context, self._diagnose,
            self._accelerate,
        )  # fmt: skip

    def _resolved(
        self, steps: Sequence[Step], latents: Sequence[int] | None
    ) -> Guider | Sequence[Guider]:
        """The guiders with numbers in place of intent; looked up again for another run alone."""
        wanted = self._wanted
        if not intents(wanted) or self._settled == (steps, latents):
            return self._guider
        text = self._asked.get("negative_prompt") or ""
        negative = text if isinstance(text, str) else next(filter(None, text), "")
        how = "" if self._accelerate is None else str(self._accelerate)
        profile = profile_of(self._pipe, steps, wanted, self._profile, negative, how)
        several = [wanted] if isinstance(wanted, Guider) else wanted
        found = [resolve(one, profile, steps, latents) for one in several]
        self._settled = steps, latents
        return found[0] if isinstance(wanted, Guider) else found

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

    def _warn(self, negative: bool, doubled: bool) -> None:
        """Say what the call asks for that has no effect, or an effect beside the guider's."""
        pipe, asked = self._pipe, self._asked
        if getattr(pipe, "guidance_rescale", 0):
            self._say_warning(
                f"guidance_rescale={pipe.guidance_rescale:g} of the pipeline is ignored while a "
                "guider is attached; use `guider | Rescale(phi)`"
            )
            pipe._guidance_rescale = 0.0
        text, embeds = asked.get("negative_prompt"), asked.get("negative_prompt_embeds")
        given = ["negative_prompt"] if text and any(text) else []
        given += ["negative_prompt_embeds"] if embeds is not None else []
        if given and not negative:
            self._say_warning(
                f"{given[0]} has no effect: {_title(self._guider)} never asks for the negative "
                "branch"
            )
        for term in self._terms:
            scale = _ungated(term)
            if (term.first_order or scale.first_order) and not is_first_order(self._scheduler):
                self._say_warning(
                    f"{term} is meant for solvers of first order, such as DDIM, Euler or "
                    f"DPM-Solver++ with solver_order=1; {type(self._scheduler).__name__} corrects "
                    "its steps"
                )
        if not doubled and self._embedded() and asked.get("guidance_scale") is not None:
            self._say_warning(
                f"guidance_scale={asked['guidance_scale']:g} goes into the network, which was "
                "distilled with it, and acts beside the guider"
            )

    def _embedded(self) -> bool:
        """Is guidance distilled into the network, so that it takes the scale as an input?"""
        networks = [part for name, part in self._parts.items() if name in DENOISERS]
        configs = [getattr(network, "config", {}) for network in networks]
        return any(
            c.get("guidance_embeds") or c.get("time_cond_proj_dim") is not None for c in configs
        )

    def _why_single(self, needs: str) -> str:
        """The complaint where there is no negative branch and somebody needs it."""
        asked = self._asked
        if "true_cfg_scale" in asked:
            return (
                f"{self._name}: true_cfg_scale is {asked['true_cfg_scale']:g} and negative_prompt "
                f"{'is not given' if asked.get('negative_prompt') is None else 'is given'}, which "
                f"switches off the negative branch that {needs}; allowed is any "
                "true_cfg_scale above 1 with a negative_prompt, which may be ' ' (the guider's own "
                "scale is used)"
            )
        if self._embedded():
            return (
                f"{self._name}: this model's guidance is distilled into it; allowed is a guider "
                "that needs no negative branch"
            )
        return (
            f"{self._name}: guidance_scale is {asked.get('guidance_scale', 1):g}, which switches "
            f"off the negative branch that {needs}; allowed is any guidance_scale above 1 "
            "(the guider's own scale is used)"
        )

    def _say(self, line: str) -> None:
        if line not in self._said:
            tqdm.write(line, file=sys.stderr)
        self._said.add(line)

    def _say_warning(self, text: str) -> None:
        warnings.warn(f"{self._name}: {text}", stacklevel=2)

    @property
    def _scheduler(self) -> Any:
        return self._parts["scheduler"]

    @property
    def _name(self) -> str:
        return type(self._pipe).__name__


def guided(
    pipe: Any,
    guider: Guider | Sequence[Guider],
    *,
    quiet: bool = False,
    diagnose: bool = False,
    gradients: bool = False,
    skip: SADA | None = None,
    profile: Profile | str | Path | None = None,
) -> Attachment:
    """Sample ``pipe`` with ``guider`` inside the ``with``.

    The guider's scale wins; the pipeline's own ``guidance_scale`` only switches its negative branch
    on or off. Afterwards the pipeline is as it was, also after an exception.

    The pipeline belongs to the thread of the ``with`` meanwhile: a call from another one, of it or
    of another pipeline that shares its denoiser or its scheduler, is an error.

    Args:
        pipe: a Diffusers pipeline, see the list in the documentation. One of a class that is not
            listed is learnt from its first evaluation, or refused there.
        guider: one guider, or a list with one for each prompt (or image) of a batch.
        quiet: do not print the plan line.
        diagnose: evaluate the negative branch at every step, whether the guider asks or not, and
            put a ``Diagnosis`` into each record; what only that needs is not counted.
        gradients: let them flow through the pipeline's call, which Diffusers runs without; ask it
            for ``output_type="pt"`` or ``"latent"``.
        skip: leave out whole evaluations, see ``SADA``.
        profile: of this pipeline, or the path of its file, by which a guider's intent becomes
            numbers when a run begins; the shipped ones are found without it.

    Returns:
        The ``Attachment``, for a ``with``: evaluations and records of each call.

    Raises:
        ValueError: the pipeline or its scheduler is not supported, ``guider`` is not a guider, or
            it has an intent for which there is no profile.
        RuntimeError: a guider is attached already; a call came from another thread.
    """
    if isinstance(pipe, Guider) and not isinstance(guider, Guider):
        raise ValueError(
            f"guided({type(pipe).__name__}, {type(guider).__name__}): the pipeline comes first; "
            "write guided(pipe, guider)"
        )
    if is_guider := isinstance(guider, Guider):
        several: list[Any] = [guider]
    else:
        several = list(guider) if isinstance(guider, (list, tuple)) else [guider]
    if not several or not all(isinstance(one, Guider) for one in several):
        raise reject("guided", "guider", guider, "a Guider such as CFG(7.5), or a list of them")
    if skip is not None and not isinstance(skip, SADA):
        raise ValueError(f"skip: expected SADA() or None, got {skip!r}")
    if isinstance(profile, (str, Path)):
        profile = Profile.load(profile)
    if profile is not None and not isinstance(profile, Profile):
        raise ValueError(f"profile is {profile!r}; allowed is a Profile, or the path of its file")
    if profile is not None and not intents(several):
        warnings.warn(
            f"profile has no effect: {_title(several)} leaves nothing to it", stacklevel=3
        )
    parts = parts_of(pipe)
    if not is_supported(parts["scheduler"]):
        read_level(parts["scheduler"], 0)  # raises, with the list of what is supported
    for network in (part for name, part in parts.items() if name in DENOISERS):
        check_dtype(pipe, getattr(network, "dtype", torch.float32))
    return Attachment(
        pipe, guider if is_guider else several, quiet, diagnose, gradients, skip, profile
    )


def _ungated(term: Term) -> Any:
    """A term's scale without the gates around it."""
    scale: Any = term.when
    while isinstance(scale, Gate):
        scale = scale.scale
    return scale


def _is_off(term: Term) -> bool:
    """Was it told to do nothing, by a scale that is off at every step?"""
    scale = _ungated(term)
    if isinstance(scale, PerImage):
        return all(value == term.off for value in scale.scales)
    return isinstance(scale, Constant) and scale.scale == term.off


def _mean(values: Sequence[float | None]) -> str:
    """Of the images that were guided."""
    known = [value for value in values if value is not None and value == value]
    return f"{sum(known) / len(known):.5f}" if known else "-"


def _title(guider: Guider | Sequence[Guider]) -> str:
    return str(guider) if isinstance(guider, Guider) else "; ".join(map(str, guider))
