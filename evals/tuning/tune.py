"""The best settings of a guider with few of them: a search, and an honest look at what it found.

All trials draw the same prompts and seeds, so that they differ by their settings alone. The best of
many noisy figures is flattered by its noise, however: so it is drawn once more, and so is the
guider with which the search began, from prompts and seeds that the search has not seen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...guidance import Guider, intents
from ...guidance.engine.config import as_integer
from ...guidance.engine.files import write_text
from ...pipelines.calibration.settle import settle
from ...pipelines.language.ranges import Space, parse_space
from ...pipelines.machine import fixed_threads
from ..metrics import estimates
from ..metrics.bootstrap import Estimate
from ..metrics.estimates import Figure
from ..runs.evaluate import check_networks, check_request, evaluate, prompts_of
from ..runs.manifest import Request, files_digest, model_facts
from ..runs.measure import Judges
from ..runs.plan import Plan, folder_of
from ..runs.registry import parse_metrics
from ..storage.files import claim
from ..storage.processes import Processes
from ..storage.prompts import Prompts
from .objective import Goal, parse_goal
from .search import Measure, Trial, load_optuna, search

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

JOURNAL = "journal.log"


@dataclass(frozen=True)
class Check:
    """The start and the best on pictures that the search has not seen.

    Attributes:
        difference: of the figures, best minus start, paired; of their distances to the target
            where there is one.
        verdict: ``holds``, ``within chance``, ``is worse``, or ``cannot be told`` where the
            figure has no interval.
        seeds: the first and the last.
        new: how many of its prompts the search has not seen, either.
        folders: of the evaluations of the start and of the best.
    """

    start: Figure
    best: Figure
    difference: Estimate
    verdict: str
    seeds: tuple[int, int]
    new: int
    folders: tuple[Path, Path]


@dataclass
class Tuning:
    """A search, so far as it has gone."""

    request: Request
    space: Space
    goal: Goal
    budget: int
    model: dict[str, Any]
    explicit: Callable[[Guider], Guider]
    trials: list[Trial] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    check: Check | None = None

    @property
    def start(self) -> Trial:
        return self.trials[0]

    @property
    def best(self) -> Trial:
        return min(self.trials, key=lambda trial: trial.loss)

    @property
    def improved(self) -> bool:
        """Is the best another guider than the start?"""
        return self.guider(self.best) != self.guider(self.start)

    def guider(self, trial: Trial) -> Guider:
        """Of explicit numbers, as it was drawn."""
        return self.explicit(self.space.at(trial.values))


def tune(
    request: Request,
    guider: str,
    out: str | Path,
    load: Callable[[], DiffusionPipeline],
    budget: int = 40,
    *,
    direction: str = "",
    target: float | None = None,
    profile: str | Path | None = None,
    processes: Processes | None = None,
    after: Callable[[Tuning], object] = lambda tuning: None,
) -> Tuning:
    """Search the ranges of a guider for what is best by the one metric of a request.

    Call it again with the same settings after a kill, or with a larger budget: it goes on as if it
    had not stopped. What is drawn stays in ``out``: ``runs`` of the search, ``check`` of the end.

    Args:
        request: of pictures to draw; the guider of its plan is replaced.
        guider: in words, with ``LOW..HIGH`` in place of numbers, see ``parse_space``.
        load: makes the pipeline, once.
        budget: trials in all, over all starts. (Combinations that are refused do not count.)
        direction, target: which way is better, see ``parse_goal``.
        profile: of the model, for a guider by intent such as ``cfg+interval(keep=0.5..0.95)``.
        after: called after every trial, and at the end.

    Raises:
        ValueError: something is not allowed, or ``out`` is that of another search.
        RuntimeError: optuna is not installed.
    """
    out, processes = Path(out), processes or Processes()
    space, plan = parse_space(guider), request.plan
    goal = _goal(request, direction, target)
    budget = as_integer("", "budget", budget, low=1, high=10_000)
    if plan is None:
        raise ValueError("plan is None; allowed is one, of pictures to draw")
    if processes.count > 1:
        raise ValueError(f"processes are {processes.count}; allowed for a search is one")
    load_optuna()
    request = dataclasses.replace(request, metrics=goal.metrics)
    wanted, prompts = parse_metrics(goal.metrics, request.model), prompts_of(request)
    assert prompts is not None
    check_request(request, wanted, prompts)
    judges = Judges.load(wanted, request.reference, processes, plan.threads)
    check_networks(wanted, judges, prompts)
    if isinstance(goal.score, torch.nn.Module):
        goal.score.to(processes.device)
    job = dataclasses.replace(plan.settings, prompt=prompts[0])

    known: dict[str, Guider] = {}

    def explicit(guider: Guider) -> Guider:
        if not intents(guider):
            return guider
        key = json.dumps(guider.to_dict())
        if key not in known:
            known[key] = settle(load(), job, guider, profile)
        return known[key]

    start = settle(load(), job, space.at(space.start), profile)
    model = model_facts(load())
    facts = {
        "guider": space.text, "metric": goal.one.key, "direction": goal.direction,
        "target": goal.target, "pictures": request.count, "reference": request.reference,
        "neighbours": request.neighbours, "prompts_sha256": prompts.digest,
        "model_sha256": model["sha256"], "scheduler_sha256": model["scheduler_sha256"],
        "files_sha256": files_digest(start), "start": start.to_dict(),
    }  # fmt: skip
    data = plan.to_dict()
    settings = data.pop("settings")
    del settings["guider"]
    claim(out, settings | data | facts)
    tuning = Tuning(request, space, goal, budget, model, explicit)

    def measured(request: Request, prompts: Prompts, folder: Path, title: str) -> Any:
        def measure(guider: Guider) -> tuple[Figure, float]:
            one, place = _with(request, guider), folder_of(folder, guider)
            found = evaluate(one, place, load, processes, judges=judges, model=model, title=title)
            if goal.score is None:
                return found[goal.one.key], found["nfe"].value
            draws = estimates.SAMPLES if request.bootstrap is None else request.bootstrap
            with fixed_threads(plan.threads):
                figure = goal.scored(
                    place / "pictures", request.count, prompts, draws, processes.device
                )
            return figure, found["nfe"].value

        return measure

    def report(trials: list[Trial], refused: list[str]) -> None:
        tuning.trials, tuning.refused = trials, refused
        if trials:
            after(tuning)

    search(
        space, goal, measured(request, prompts, out, "pictures"), budget, out / JOURNAL,
        plan.settings.seed, report, explicit,
    )  # fmt: skip
    if tuning.improved:
        unseen, rest = _unseen(request, prompts, out / "check")
        seen = {prompts[number] for number in range(request.count)}
        new = sum(rest[number] not in seen for number in range(request.count))
        measure = measured(unseen, rest, out / "check", "check")
        tuning.check = _check(tuning, measure, unseen, new, out)
        after(tuning)
    return tuning


def _goal(request: Request, direction: str, target: float | None) -> Goal:
    if len(request.metrics) != 1:
        raise ValueError(f"metrics are {list(request.metrics)}; allowed for a search is one")
    goal = parse_goal(request.metrics[0], request.model, direction, target)
    if goal.score is not None and not request.keep:
        raise ValueError(f"metric is {goal.one.key!r}; allowed where pictures are kept")
    return goal


def _with(request: Request, guider: Guider) -> Request:
    """The same request for another guider."""
    assert request.plan is not None
    settings = dataclasses.replace(request.plan.settings, guider=guider.to_dict())
    return dataclasses.replace(request, plan=dataclasses.replace(request.plan, settings=settings))


def _unseen(request: Request, prompts: Prompts, folder: Path) -> tuple[Request, Prompts]:
    """As many pictures of the prompts and seeds that come next.

    The search had the first prompts, and its best settings may suit just those.
    """
    assert request.plan is not None
    plan, count = request.plan, request.count
    numbers = range(count, 2 * count)
    rows = [{"prompt": prompts[n], "label": prompts.label(n)} for n in numbers]
    path = folder / "prompts.jsonl"
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    settings = dataclasses.replace(plan.settings, seed=plan.settings.seed + count)
    unseen = Plan(settings, str(path), plan.batch_size, plan.threads)
    # An interval is what it is all about, whatever it takes.
    draws = estimates.SAMPLES if request.bootstrap is None else request.bootstrap
    other = dataclasses.replace(request, plan=unseen, bootstrap=draws)
    found = prompts_of(other)
    assert found is not None
    return other, found


def _check(tuning: Tuning, measure: Measure, unseen: Request, new: int, out: Path) -> Check:
    assert unseen.plan is not None
    goal, seed = tuning.goal, unseen.plan.settings.seed
    guiders = [tuning.guider(trial) for trial in (tuning.start, tuning.best)]
    start, best = (measure(guider)[0] for guider in guiders)
    lost = goal.loss(best).minus(goal.loss(start))
    one, other = (folder_of(out / "check", guider) for guider in guiders)
    seeds = (seed, seed + unseen.count - 1)
    return Check(start, best, goal.gap(best, start), goal.verdict(lost), seeds, new, (one, other))
