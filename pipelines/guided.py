"""Attach a guider to a stock Diffusers pipeline: ``with guided(pipe, guider) as run:``."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..guidance import Branch, Denoiser, Guider, Query, Record, Step, foresee
from ..samplers import is_supported, read_level, readout_at, steps_ahead
from .batched import Evaluation
from .swap import is_swapped, restore, swap

# Pipelines of one doubled forward, [negative, positive]: the class and its denoiser's attribute.
BATCHED = {
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
}


@dataclass
class Call:
    """One call of the pipeline.

    Attributes:
        images: number of images; 0 until the first evaluation.
        steps: every evaluation that was planned.
        records: what happened at each evaluation so far.
    """

    images: int = 0
    steps: list[Step] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

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
    """A guider on a pipeline, as ``guided`` yields it.

    Attributes:
        calls: one ``Call`` for each call of the pipeline since it was attached.
    """

    def __init__(self, pipe: Any, guider: Guider | Sequence[Guider], quiet: bool) -> None:
        self.calls: list[Call] = []
        self._pipe, self._guider, self._quiet = pipe, guider, quiet
        self._network, self._scheduler = _denoiser(pipe), pipe.scheduler
        self._denoiser: Denoiser | None = None
        self._running = self._doubled = False
        self._count = 0
        self._said = ""

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
            cosines = [value for value in record.cosine if value == value]
            cosine = f"{sum(cosines) / len(cosines):.5f}" if cosines else "-"
            lines.append(
                f"{record.index:>4} {record.sigma:>8.3f}  {', '.join(shown):>18}  {cosine:>9}  "
                f"{sum(record.evaluations)} for {len(record.evaluations)}"
            )
        return "\n".join(lines)

    def attach(self) -> None:
        swap(self._pipe, {"__call__": self._call})
        swap(self._network, {"__call__": self._evaluate})
        swap(self._scheduler, {"set_timesteps": self._begin, "step": self._commit})

    def detach(self) -> None:
        for target in (self._pipe, self._network, self._scheduler):
            restore(target)

    def _call(self, original: Any, pipe: Any, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's ``__call__``: only what happens within is guided."""
        for part, there in ((self._network, _denoiser(pipe)), (self._scheduler, pipe.scheduler)):
            if part is not there:
                raise RuntimeError(
                    f"the {type(part).__name__} of {self._name} was replaced inside "
                    "`with guided(...)`; allowed before it"
                )
        self.calls.append(Call())
        self._running = True
        try:
            return original(pipe, *args, **kwargs)
        finally:
            self._running, self._denoiser = False, None

    def _begin(self, original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's ``set_timesteps``: a new run, with fresh memory."""
        if self._running:
            self._denoiser, self._count = None, 0
        return original(scheduler, *args, **kwargs)

    def _commit(self, original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's ``step``: the evaluation is over."""
        self._count += self._running
        return original(scheduler, *args, **kwargs)

    def _evaluate(self, original: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's ``__call__``: the guided prediction in place of the network's."""
        if not self._running:
            raise RuntimeError(
                f"this {type(network).__name__} has a guider attached through a {self._name} and "
                "was called from elsewhere; leave the `with guided(...)` first, or guide that one"
            )
        doubled = bool(self._pipe.do_classifier_free_guidance)
        batch = len(args[0]) // 2 if doubled else len(args[0])
        if self._denoiser is None:
            self._denoiser = self._start(args[1], batch, doubled)
        if (doubled, batch) != (self._doubled, self._denoiser.batch):
            raise RuntimeError(
                f"{self._name} switched its negative branch or its batch in mid-run; to stop "
                "guiding early use Interval or Adaptive"
            )
        step = self.last.steps[self._count]

        def forward(*args: Any, **kwargs: Any) -> Any:
            return original(network, *args, **kwargs)

        readout = functools.partial(readout_at, self._scheduler, step.level)
        call = Evaluation(forward, args, kwargs, batch, doubled, readout)
        result = self._denoiser(Query(call.latents(), step), call)
        self.last.records.append(result.record)
        return call.reply(result.output)

    def _start(self, timestep: Any, batch: int, doubled: bool) -> Denoiser:
        """The first evaluation of a run: check that it can work, say the plan, make the memory."""
        if isinstance(timestep, Tensor):  # a scalar, or the same for each row
            timestep = timestep.flatten()[0]
        steps = steps_ahead(self._scheduler, timestep, self._pipe.num_timesteps)
        plans = foresee(self._guider, steps, batch)
        if not doubled and any(Branch("negative") in plan for plan in plans):
            raise ValueError(self._why_single())
        if getattr(self._pipe, "guidance_rescale", 0):
            warnings.warn(
                f"{self._name}: guidance_rescale={self._pipe.guidance_rescale:g} of the pipeline "
                "is ignored while a guider is attached; use `guider | Rescale(phi)`",
                stacklevel=2,
            )
            self._pipe._guidance_rescale = 0.0
        self.last.images, self.last.steps, self._doubled = batch, steps, doubled
        count = sum(step.stage == 0 for step in steps)
        most = sum(len(rows) for plan in plans for rows in plan.values()) / batch
        line = f"{_title(self._guider)}; {count} steps; at most {most:g} evaluations per image"
        if line != self._said and not self._quiet:
            tqdm.write(line, file=sys.stderr)
        self._said = line
        return Denoiser(self._guider, batch)

    def _why_single(self) -> str:
        """The complaint where there is no negative branch and the guider needs it."""
        if getattr(self._network.config, "time_cond_proj_dim", None) is not None:
            return (
                f"{self._name}: this model's guidance is distilled into it (time_cond_proj_dim); "
                "allowed is a guider that needs no negative branch"
            )
        return (
            f"{self._name}: guidance_scale is {self._pipe.guidance_scale:g}, which switches off "
            "the negative branch that the guider needs; allowed is any guidance_scale above 1 (the "
            "guider's own scale is used)"
        )

    @property
    def _name(self) -> str:
        return type(self._pipe).__name__


@contextmanager
def guided(
    pipe: Any, guider: Guider | Sequence[Guider], *, quiet: bool = False
) -> Iterator[Attachment]:
    """Sample ``pipe`` with ``guider`` inside the ``with``.

    The guider's scale wins; the pipeline's own ``guidance_scale`` only switches its negative branch
    on or off. Afterwards the pipeline is as it was, also after an exception.

    Args:
        pipe: a Diffusers pipeline of a supported class.
        guider: one guider, or a list with one for each prompt (or image) of a batch.
        quiet: do not print the plan line.

    Yields:
        The ``Attachment``: evaluations and records of each call.

    Raises:
        ValueError: the pipeline or its scheduler is not supported, or ``guider`` is not a guider.
        RuntimeError: a guider is attached already.
    """
    if is_guider := isinstance(guider, Guider):
        several: list[Any] = [guider]
    else:
        several = list(guider) if isinstance(guider, (list, tuple)) else [guider]
    if not several or not all(isinstance(one, Guider) for one in several):
        raise ValueError(
            f"guider is {guider!r}; allowed is a Guider such as CFG(7.5), or a list of them"
        )
    parts = (pipe, _denoiser(pipe), pipe.scheduler)
    if not is_supported(pipe.scheduler):
        read_level(pipe.scheduler, 0)  # raises, with the list of what is supported
    if any(map(is_swapped, parts)):
        raise RuntimeError(
            f"a guider is attached to this {type(pipe).__name__}, or to one that shares its parts, "
            "already; leave its `with` first, or add the guiders: `CFG(5) + APG(3)`"
        )
    attachment = Attachment(pipe, guider if is_guider else several, quiet)
    attachment.attach()
    try:
        yield attachment
    finally:
        attachment.detach()


def _denoiser(pipe: Any) -> torch.nn.Module:
    for base in type(pipe).__mro__:
        if base.__name__ in BATCHED:
            return getattr(pipe, BATCHED[base.__name__])
    raise ValueError(
        f"pipe is a {type(pipe).__name__}; allowed is one of {', '.join(sorted(BATCHED))}"
    )


def _title(guider: Guider | Sequence[Guider]) -> str:
    return str(guider) if isinstance(guider, Guider) else "; ".join(map(str, guider))
