"""A sampling loop for any denoiser, guided or not, over any scheduler.

A *plain* denoiser is a function ``(x, sigma) -> x0`` on ``x = x0 + sigma * noise``: x and x0 are
(B, ...), sigma is a number. An exact mixture, a network of one's own, a closed formula::

    for point in sample(denoise, EDM(sigma_max=5), shape=(16, 2), num_inference_steps=32):
        point.x                                    # after each step; at last the pictures
    image = final(sample(denoise, DDIMScheduler(), shape=(4, 1, 8, 8))).x

A *guided* one is a ``Guider`` and a ``Network`` (``guidance/engine/denoiser.py``), which answers
for several branches. ``as_network`` makes one of plain functions; the weak model of autoguidance is
then called as the first function is::

    network = as_network(denoise, positive=labels, negative=nothing)   # denoise(x, sigma, labels)
    run = sample(network, UniPCMultistepScheduler(), shape=(4, 2), guider=CFG(3))
    run = sample(as_network(strong), EDM(), shape=(4, 2), guider=CFG(3, reference=WeakModel(weak)))

The scheduler is one of Diffusers', or ``EDM``. Every image may have a generator of its own, so that
it is the same in any batch. ``grad=True`` keeps the graph through all steps. A consumer may assign
to ``point.x``: the run goes on from there (but not with UniPC and EVODiff, which
keep an x of their own).
"""

from __future__ import annotations

import collections
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..guidance import (
    CFG,
    Context,
    Denoiser,
    Guided,
    Guider,
    Network,
    Prediction,
    Query,
    Readout,
    Record,
    Step,
)
from ..guidance.engine.config import as_integer
from .edm import EDM
from .networks import CLEAN, Plain, as_network
from .noise_level import is_supported, readout_at, steps_ahead, why_refused
from .sada import SADA, Accelerated, check_solver

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass
class Point:
    """Where a run is after a solver step.

    Attributes:
        step: the step's last evaluation.
        x: the latents (B, ...) after the step, as the scheduler holds them. Assign to it to go on
            from elsewhere.
        x0: the guided clean images (B, ...) of that evaluation.
        records: what happened at each evaluation of the run so far.
    """

    step: Step
    x: Tensor
    x0: Tensor
    records: list[Record] = field(repr=False)

    @property
    def nfe(self) -> float:
        """Network evaluations per image so far, on average over the images."""
        return sum(sum(record.evaluations) for record in self.records) / len(self.x)


def sample(
    denoiser: Plain | Network,
    scheduler: Any,
    *,
    shape: Sequence[int] | None = None,
    noise: Tensor | None = None,
    x: Tensor | None = None,
    num_inference_steps: int | None = 50,
    guider: Guider | Sequence[Guider] | None = None,
    context: Context | None = None,
    diagnose: bool = False,
    cosines: bool = False,
    skip: SADA | None = None,
    generator: Generators | None = None,
    progress: bool = True,
    grad: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Iterator[Point]:
    """Sample step by step.

    Args:
        denoiser: a plain function, or with ``guider`` a ``Network``.
        scheduler: an ``EDM``, or a scheduler of Diffusers; that one is used as a pipeline uses it,
            so it holds the run's state.
        shape, noise, x: the start; one of the three. ``shape`` (B, ...) draws noise, ``noise``
            (B, ...) has unit variance, ``x`` (B, ...) is at the scheduler's first level already.
        num_inference_steps: solver steps; ``None`` where ``set_timesteps`` was called already.
        guider: one, or one for each image or prompt; ``None`` for a plain denoiser.
        context: what the guider may ask for besides, such as other conditions.
        diagnose: keep a ``Diagnosis`` of each evaluation, see ``guidance.Denoiser``.
        cosines: keep the cosines of both predictions, see there.
        skip: leave out evaluations.
        generator: one, or one for each image.
        progress: show a bar if it takes more than two seconds.
        grad: differentiate through the run.
        dtype, device: of the noise that ``shape`` draws.
        options: passed to the scheduler's ``step``, such as ``eta=1.0``.

    Yields:
        A ``Point`` for each solver step. A solver of second order evaluates twice in one.

    Raises:
        ValueError: the scheduler is not supported, or an argument is not allowed.
    """
    start = _start(shape, noise, x, generator, dtype, device)
    draw = functools.partial(noise_like, generator=generator)
    if isinstance(scheduler, EDM):
        solver: Any = scheduler
        if num_inference_steps is None or options:
            what = next(iter(options), "num_inference_steps")
            value = options.get(what, num_inference_steps)
            raise ValueError(f"{what} is {value!r}; allowed with EDM is {_EDM_ALLOWED}")
        steps, spread = _checked(solver.evaluations, num_inference_steps), scheduler.sigma_max
    else:
        solver = DiffusersSolver(scheduler, options, generator)
        steps = _checked(
            functools.partial(solver.evaluations, device=start.device), num_inference_steps
        )
        spread = float(getattr(scheduler, "init_noise_sigma", 1.0))
    if x is None:
        start = start * spread
    called = getattr(denoiser, "forward", denoiser)
    if guider is not None and "sigma" in inspect.signature(called).parameters:
        raise ValueError(
            "denoiser is a function of (x, sigma) and there is a guider, which asks for several "
            "predictions; allowed is as_network(denoiser, positive=..., negative=...)"
        )
    network: Any = as_network(denoiser) if guider is None else denoiser  # type: ignore[arg-type]
    if skip is not None and not isinstance(scheduler, EDM):
        check_solver(scheduler, float(options.get("eta", 0)))
    settings = (CFG(1) if guider is None else guider, len(start), context, diagnose, cosines)
    bound = Accelerated(skip, _clean, *settings) if skip else Denoiser(*settings)
    return _run(solver, start, steps, bound, network, draw, progress, grad)


def _clean(step: Step) -> Readout:
    """How what acceleration makes up is read: it is a clean image."""
    return CLEAN


_EDM_ALLOWED = "num_inference_steps, and its own settings where it is made"


def final(run: Iterator[Point]) -> Point:
    """The last point of a run."""
    return collections.deque(run, maxlen=1)[0]


def noise_like(x: Tensor, generator: Generators | None) -> Tensor:
    """Normal noise (B, ...) like ``x``; with several generators each image's is its own."""

    def draw(shape: Sequence[int], source: torch.Generator | None) -> Tensor:
        # drawn where the generator is, so that a seed means the same on every device
        where = source.device if source is not None else x.device
        return torch.randn(shape, generator=source, dtype=x.dtype, device=where).to(x.device)

    if generator is None or isinstance(generator, torch.Generator):
        return draw(x.shape, generator)
    if len(generator) != len(x):
        raise ValueError(
            f"generator is a list of {len(generator)} for {len(x)} images; allowed is one, or one "
            "for each image"
        )
    return torch.stack([draw(x.shape[1:], source) for source in generator])


def _start(
    shape: Sequence[int] | None,
    noise: Tensor | None,
    x: Tensor | None,
    generator: Generators | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    given = [name for name, v in (("shape", shape), ("noise", noise), ("x", x)) if v is not None]
    if len(given) != 1:
        raise ValueError(
            f"the start is given by {' and '.join(given) or 'nothing'}; allowed is one of shape, "
            "noise and x"
        )
    if shape is not None:
        return noise_like(torch.empty(tuple(shape), dtype=dtype, device=device), generator)
    return noise if noise is not None else x  # type: ignore[return-value]


def _checked(evaluations: Callable[[Any], list[Step]], count: Any) -> list[Step]:
    if count is not None:
        count = as_integer("", "num_inference_steps", count, low=1)
    return evaluations(count)


def _run(
    solver: Any,
    x: Tensor,
    steps: list[Step],
    denoiser: Denoiser,
    network: Network,
    draw: Callable[[Tensor], Tensor],
    progress: bool,
    grad: bool,
) -> Iterator[Point]:
    records: list[Record] = []

    with tqdm(total=len(steps), disable=not progress, delay=2, leave=False) as bar:

        def evaluate(q: Query) -> Guided:
            guided = denoiser(q, network)
            records.append(guided.record)
            bar.update()
            return guided

        run, sent = solver.solve(x, steps, evaluate, draw), None
        while True:
            try:
                with torch.set_grad_enabled(grad):  # never while the consumer is at work
                    x, guided = run.send(sent)
            except StopIteration:
                denoiser.finish()
                return
            point = Point(steps[len(records) - 1], x, guided.x0, records)
            yield point
            sent = point.x


class DiffusersSolver:
    """A scheduler of Diffusers, stepped as its pipeline would.

    Args:
        scheduler: a supported scheduler.
        options: for its ``step``.
        generator: for its ``step``, where that draws noise.
    """

    def __init__(
        self, scheduler: Any, options: dict[str, Any], generator: Generators | None
    ) -> None:
        if not is_supported(scheduler):
            raise ValueError(why_refused(scheduler))
        self._scheduler, self._options = scheduler, dict(options)
        self._known = inspect.signature(scheduler.step).parameters
        for name, value in options.items():
            if name not in self._known:
                raise ValueError(
                    f"{name} is {value!r}; allowed for {type(scheduler).__name__} is one of "
                    f"{', '.join(self._known)}"
                )
        if "generator" in self._known and generator is not None:
            given = generator if isinstance(generator, torch.Generator) else list(generator)
            self._options.setdefault("generator", given)

    def evaluations(self, count: int | None, device: torch.device) -> list[Step]:
        """All evaluations of a run of ``count`` steps, or as ``set_timesteps`` was called."""
        scheduler = self._scheduler
        if count is not None:
            scheduler.set_timesteps(count, device=device)
        if hasattr(scheduler, "set_begin_index") and getattr(scheduler, "begin_index", 0) is None:
            scheduler.set_begin_index(0)
        return steps_ahead(scheduler, scheduler.timesteps[0])

    def solve(
        self,
        x: Tensor,
        steps: list[Step],
        evaluate: Callable[[Query], Guided],
        draw: Callable[[Tensor], Tensor],
    ) -> Iterator[tuple[Tensor, Guided]]:
        """The steps of a run, see ``sample``; what is sent is where the run goes on."""
        scheduler = self._scheduler
        times = scheduler.timesteps
        before: Tensor | None = None
        for i, step in enumerate(steps):
            t = times[i]
            scale = getattr(scheduler, "scale_model_input", None)
            seen = scale(x, t) if scale else x
            guided = evaluate(Query(seen, step))
            readout = readout_at(scheduler, step.level)
            said = Prediction(seen, guided.output, guided.positive.readout)
            output = said.output_as(readout) if readout.gain else torch.zeros_like(seen)
            given = {
                "model_output": output.to(x.dtype),
                "timestep": t,
                "sample": x,
                "return_dict": False,
                **self._special(i, x, before),
                **self._options,
            }
            result = scheduler.step(**given)
            x = result[0]
            before = result[1] if len(result) > 1 else None
            if i + 1 == len(steps) or steps[i + 1].stage == 0:
                sent = yield x, guided
                x = x if sent is None else sent

    def _special(self, i: int, x: Tensor, before: Tensor | None) -> dict[str, Any]:
        """What only some schedulers want to know."""
        times, known = self._scheduler.timesteps, self._known
        special: dict[str, Any] = {}
        if "prev_timestep" in known:  # UnCLIP
            special["prev_timestep"] = times[i + 1] if i + 1 < len(times) else None
        if "old_pred_original_sample" in known:  # CogVideoX
            special["old_pred_original_sample"] = before
            special["timestep_back"] = times[i - 1] if i else None
        if "emit_mask" in known:  # Proteina: which atoms are there
            special["emit_mask"] = x.new_ones(x.shape[:-1])
        if hasattr(self._scheduler, "_alpha_cumprod"):  # Würstchen: a time for each image
            special["timestep"] = times[i].expand(len(x))
        return special
