"""Measure what guidance does to a pipeline, so that guiders can be asked for by intent."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...guidance import APG, CFG, Constant, Guider, Negative, Profile, Reference, Term, intents
from ...guidance.calibration.profile import Effect, Track
from ...guidance.calibration.simulate import View
from ...guidance.engine.levels import Step
from ...pipelines.calibration.settle import foreseen
from ...pipelines.generation.settings import Settings
from ...pipelines.presets.find import name_of
from .effects import Watch, effect, pictures, runs
from .tracks import Recorder, draw, facts_of

GROUPS = 4  # of evaluations, whose effect is measured
LEAST = 8  # prompts
QUARTER = 4  # of the prompts is drawn with APG, twice if its scale was not found at first
CLOSE, NEAR = 0.12, (0.6, 1.6)  # how strong it should be, and must be, in parts of the CFG
STRONGEST = 50.0
DAMPED = 0.77  # power of what is missing, by which APG's scale is corrected
FARTHEST = 20  # times the scale of the CFG, for an APG


def profile(
    pipe: Any,
    prompts: Sequence[str],
    scales: Sequence[float] = (7.5,),
    guiders: Sequence[Term] = (),
    *,
    batch_size: int = 4,
    before: Profile | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Profile:
    """Measure a pipeline, in at most two plain runs of its prompts for each scale.

    Every prompt is drawn with CFG, and all predictions are looked at. A quarter of them is drawn
    with APG, about as strong, since what is seen depends on the way. A few are drawn without
    guidance in one part of the run, and in another.

    Args:
        prompts: at least 8, as different as those to come; with 64 figures hold for others, too.
        scales: of CFG. Between them a profile is interpolated.
        guiders: further terms at their scales, such as ``CFG(2, reference=WeakModel(...))``: each
            is looked at on its own way with a quarter of the prompts, beyond the two runs.
        before: a profile of the same pipeline, prompts and settings, to be added to.
        settings: of ``generate.Settings``: ``num_inference_steps``, ``seed`` (of the first prompt),
            ``negative_prompt``, ``width``, ``height`` and ``model``, its name.

    Raises:
        ValueError: an argument is not allowed, or ``before`` is of something else.
    """
    *_, found = measure(
        pipe, prompts, scales, guiders, batch_size=batch_size, before=before, quiet=quiet,
        **settings,
    )  # fmt: skip
    return found


def measure(
    pipe: Any,
    prompts: Sequence[str],
    scales: Sequence[float],
    guiders: Sequence[Term],
    *,
    batch_size: int = 4,
    before: Profile | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Iterator[Profile]:
    """``profile``, whenever it is whole again: after each scale."""
    scales = sorted({float(scale) for scale in scales})
    _check(prompts, scales, guiders, batch_size)
    first = Settings("", None, **({"model": name_of(pipe)} | settings))
    jobs = [
        dataclasses.replace(first, prompt=prompt, seed=first.seed + number)
        for number, prompt in enumerate(prompts)
    ]
    work = _Work(pipe, jobs, batch_size, quiet)
    if before is not None:
        work.steps, latents = foreseen(pipe, jobs[0])
        work.latents = tuple(latents or before.facts["latents"])
        _check_same(before, work)
    found = before
    for scale in [s for s in scales if before is None or s not in before.scales]:
        tracks, seen = work.at(scale)
        found = _more(found, work, tracks, [seen])
        yield found
    known = [] if before is None else [track.guider for track in before.tracks]
    if others := [guider for guider in guiders if facts_of(guider) not in known]:
        assert found is not None  # there are scales
        found = _more(found, work, work.others(others), [])
        yield found
    if found is before and before is not None:
        yield before


def _more(
    found: Profile | None, work: _Work, tracks: list[Track], effects: list[Effect]
) -> Profile:
    """A profile with more in it."""
    if found is not None:
        tracks, effects = [*found.tracks, *tracks], [*found.effects, *effects]
    return Profile(
        work.facts(),
        [step.sigma for step in work.steps],
        [step.stage for step in work.steps],
        tracks,
        sorted(effects, key=lambda one: one.scale),
        max(work.cost, found.cost if found else 0.0),
    )


def _check_same(before: Profile, work: _Work) -> None:
    """Before anything is drawn: is a profile of what is to be drawn?"""
    for name, value in work.facts().items():
        there = before.facts.get(name)
        if value != there:
            raise ValueError(
                f"profile: {name} is {value!r}; allowed to add to this one is {there!r}"
            )
    before.check(work.steps)


def _check(
    prompts: Sequence[str], scales: Sequence[float], guiders: Sequence[Term], batch_size: int
) -> None:
    if isinstance(prompts, str) or len(prompts) < LEAST:
        count = 1 if isinstance(prompts, str) else len(prompts)
        raise ValueError(f"prompts are {count}; allowed are at least {LEAST}")
    if not scales or not all(1 < scale <= STRONGEST for scale in scales):
        raise ValueError(f"scales are {scales}; allowed are numbers above 1, to {STRONGEST:g}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; allowed is at least 1")
    for guider in guiders:
        if not isinstance(guider, Term) or not guider.by_products:
            raise ValueError(f"guiders have {guider}; allowed are APG and CFG, of any reference")
        assert guider.reference is not None
        kind = type(guider.reference)
        if kind.asks is not Reference.asks or kind.read is not Reference.read:
            allowed = "that are one prediction, such as a weak model or a perturbed network"
            raise ValueError(f"guiders have {guider}; allowed are references {allowed}")
        if intents(guider) or not isinstance(guider.when, Constant):
            raise ValueError(f"guiders have {guider}; allowed are those of explicit numbers")


class _Work:
    """What is drawn of a pipeline.

    Attributes:
        cost: evaluations of one scale, in parts of those of plain runs of all prompts.
        steps: of a run.
        latents: the shape of one image's.
    """

    def __init__(self, pipe: Any, jobs: Sequence[Settings], batch_size: int, quiet: bool) -> None:
        self._pipe, self._jobs = pipe, jobs
        self._batch_size, self._quiet = batch_size, quiet
        self._evaluations = 0
        self.cost = 0.0
        self._bar: Any = None
        self.steps: list[Step] = []
        self.latents: tuple[int, ...] = ()

    def at(self, scale: float) -> tuple[list[Track], Effect]:
        """The tracks of one scale, and its effect."""
        count = len(self._jobs)
        side, pilot = max(2, count // QUARTER), max(1, count // QUARTER**2)
        least = count - 2 * side - pilot  # that is left of two plain runs for the effect
        most = min(GROUPS, self._jobs[0].num_inference_steps)
        groups = next(number for number in range(most, 0, -1) if runs(number) <= least)
        self._evaluations = 0
        with self._progress(f"scale {scale:g}", 2 * count):
            watch = Watch(groups, int(count / runs(groups)))
            track, full = self._walk(CFG(scale), count, watch)
            if not track.gaps[0].size.any():
                raise ValueError(
                    "prompts are all predicted as the negative prompt is; allowed are those that "
                    "guidance can move"
                )
            plain = self._evaluations
            view = View(track, self.steps, math.prod(self.latents))
            everywhere = [True] * len(self.steps)
            radius, own = view.radius(0.9, APG().momentum, Negative(), everywhere), scale
            tracks = [track]
            for number in (pilot, side, side):
                beside, _ = self._walk(APG(own, rescale_rms=radius), number)
                done = (beside.effective - 1) / (scale - 1)
                # Strength grows faster than the scale, so half a step is nearer than a whole one.
                own = min(1 + (own - 1) / max(done, 0.1) ** DAMPED, FARTHEST * scale)
                if number == side and NEAR[0] < done < NEAR[1]:
                    tracks.append(beside)
                if number == side and abs(done - 1) < CLOSE:
                    break
            few = int(count * (2 - self._evaluations / plain) / runs(groups) + 1e-6)
            self._bar.total = self._bar.n + few * pictures(groups)
            seen = effect(self._draw, scale, self._jobs[:few], full[:few], watch.edges)
        seen.x0 = watch.colours(self._pipe, self._jobs[0], few)
        self.cost = max(self.cost, self._evaluations / plain)
        return tracks, seen

    def others(self, guiders: Sequence[Term]) -> list[Track]:
        """The tracks of further guiders."""
        side = max(2, len(self._jobs) // QUARTER)
        with self._progress("guiders", side * len(guiders)):
            return [self._walk(guider, side)[0] for guider in guiders]

    def facts(self) -> dict[str, Any]:
        """What a profile is of."""
        first, pipe = self._jobs[0], self._pipe
        network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
        texts = "\n".join(job.prompt for job in self._jobs)
        return {
            "model": Path(first.model).name if Path(first.model).is_dir() else first.model,
            "pipeline": type(pipe).__name__,
            "network": type(network).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            "num_inference_steps": first.num_inference_steps,
            "latents": list(self.latents),
            "seed": first.seed,
            "negative_prompt": first.negative_prompt,
            "prompts": len(self._jobs),
            "prompts_sha256": hashlib.sha256(texts.encode()).hexdigest()[:16],
        }

    def _progress(self, title: str, total: int) -> Any:
        self._bar = tqdm(
            total=total, desc=title, unit="picture", disable=True if self._quiet else None
        )
        return self._bar

    def _walk(self, guider: Term, count: int, watch: Watch | None = None) -> tuple[Track, Tensor]:
        """The track of a guider along the first prompts, and their pictures."""
        recorder, pictures = Recorder(guider, watch), []
        for batch in self._batches(self._jobs[:count]):
            drawn = recorder.draw(self._pipe, batch)
            self.steps, self.latents = drawn.steps, drawn.latents
            pictures.append(drawn.pictures)
            self._count(drawn.evaluations, len(batch))
        return recorder.track(), torch.cat(pictures)

    def _draw(self, guider: Guider, jobs: Sequence[Settings]) -> Tensor:
        pictures = []
        for batch in self._batches(jobs):
            drawn = draw(self._pipe, guider, batch)
            pictures.append(drawn.pictures)
            self._count(drawn.evaluations, len(batch))
        return torch.cat(pictures)

    def _batches(self, jobs: Sequence[Settings]) -> Iterator[Sequence[Settings]]:
        for start in range(0, len(jobs), self._batch_size):
            yield jobs[start : start + self._batch_size]

    def _count(self, evaluations: int, pictures: int) -> None:
        self._evaluations += evaluations
        self._bar.update(pictures)
