"""Optuna asked for settings, told their figures: the search itself, whatever is drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...guidance import Guider
from ...guidance.engine.files import write
from ...guidance.engine.finite import NotFiniteError
from ...pipelines.language.ranges import Space
from ..metrics.bootstrap import Estimate
from ..metrics.estimates import Figure
from .objective import Goal

IN_A_ROW = 100  # suggestions that are refused, or were drawn already: then it ends
Measure = Callable[[Guider], tuple[Figure, float]]
"""A guider's figure, and its evaluations per image."""


@dataclass(frozen=True)
class Trial:
    """Settings that were drawn.

    Attributes:
        number: of the trial, from 0 in the order in which they were drawn.
        values: of the ranges, in order.
        figure: with its draws, for paired differences.
        loss: what the search lowers, by which trials are ranked.
    """

    number: int
    values: tuple[float, ...]
    loss: float
    nfe: float
    figure: Figure = field(compare=False)

    @property
    def estimate(self) -> Estimate:
        return self.figure.estimate


def search(
    space: Space,
    goal: Goal,
    measure: Measure,
    budget: int,
    journal: Path,
    seed: int = 0,
    after: Callable[[list[Trial], list[str]], object] = lambda trials, refused: None,
    explicit: Callable[[Guider], Guider] = lambda guider: guider,
) -> list[Trial]:
    """Ask optuna for settings and tell it their figures, until ``budget`` trials are drawn.

    The journal is all the memory there is: the same one leads to the same next trial.

    Args:
        after: called with the trials so far and why others were refused, at first and after each.
        explicit: a guider with numbers in place of intents; a ``ValueError`` of it is a refusal.

    Returns:
        The trials; fewer where there is nothing else to draw.

    Raises:
        ValueError: the journal cannot be read, or too many combinations in a row are refused.
    """
    study, states = _study(journal), load_optuna().trial.TrialState
    starts, seen = _starts(space, seed), (states.COMPLETE, states.PRUNED)
    done = min(budget, len(study.get_trials(states=(states.COMPLETE,))))
    with tqdm(total=budget, initial=done, desc="trials", unit="trial", disable=None) as bar:
        while True:
            past = study.get_trials(deepcopy=False, states=seen)
            drawn, refused = _read(past)
            after(drawn, refused)
            if drawn:
                best = min(drawn, key=lambda one: one.loss)
                bar.set_postfix_str(f"best {goal.one.key} {best.estimate.value:.4g}")
            bar.update(len(drawn) - bar.n)
            stuck = len(past) >= IN_A_ROW and all(t.value is None for t in past[-IN_A_ROW:])
            if len(drawn) >= budget or (drawn and stuck):
                return drawn
            if stuck:
                raise ValueError(
                    f"guider is {space.text!r}, of which {IN_A_ROW} combinations in a row were "
                    f"refused, the last one because: {refused[-1]}"
                )
            trial, values = _ask(study, space, starts, past, seed)
            if tuple(values) in {one.values for one in drawn}:
                study.tell(trial, state=states.PRUNED)  # its figure is known
                continue
            guider = None
            try:
                guider = explicit(space.at(values))
                figure, nfe = measure(guider)
                if not math.isfinite(figure.value):
                    raise NotFiniteError(f"{goal.one.key} is {figure.value}")
            except (NotFiniteError, ValueError) as error:
                if isinstance(error, ValueError) and guider is not None:
                    raise  # it is not the settings' fault
                trial.set_user_attr("refused", str(error))
                study.tell(trial, state=states.PRUNED)
                continue
            draws = None if figure.draws is None else figure.draws.tolist()
            trial.set_user_attr("figure", [float(figure.value), draws, figure.centred])
            trial.set_user_attr("nfe", float(nfe))
            loss = float(goal.loss(figure).value)
            # The distance to a target has a kink there, its square has none, and ranks the same.
            study.tell(trial, loss if goal.target is None else loss**2)


def _ask(
    study: Any, space: Space, starts: Sequence[list[float]], past: Sequence[Any], seed: int
) -> tuple[Any, list[float]]:
    """The next trial and its settings: those of the starts, and then what optuna suggests."""
    kinds, states = load_optuna().distributions, load_optuna().trial.TrialState
    spans = {
        one.name: kinds.IntDistribution(int(one.low), int(one.high))
        if one.whole
        else kinds.FloatDistribution(one.low, one.high)
        for one in space.ranges
    }
    study.sampler = _sampler(past, len(space.ranges), seed)
    start = starts[len(past)] if len(past) < len(starts) else None
    if start is not None and not study.get_trials(states=(states.WAITING,)):
        study.enqueue_trial(dict(zip(space.names, start, strict=True)))
    trial = study.ask(spans)
    values = start or [one.rounded(trial.params[one.name]) for one in space.ranges]
    trial.set_user_attr("values", values)
    return trial, values


def _read(past: Sequence[Any]) -> tuple[list[Trial], list[str]]:
    """What optuna's trials say: those that were drawn, and why others were not."""
    drawn: list[Trial] = []
    refused = []
    for one in past:
        kept = one.user_attrs
        if "figure" not in kept:
            refused += [kept["refused"]] if "refused" in kept else []
            continue
        value, draws, centred = kept["figure"]
        figure = Figure(value, None if draws is None else np.array(draws), centred)
        values = tuple(kept["values"])
        drawn.append(Trial(len(drawn), values, one.value, kept["nfe"], figure))
    return drawn, refused


def _starts(space: Space, seed: int) -> list[list[float]]:
    """The settings that are tried first: the defaults, the middles, and some far from each other.

    Two for each range, by Halton's sequence, are enough for a Gaussian process to begin with.
    """
    from scipy.stats import qmc

    ranges = space.ranges
    spread = qmc.Halton(len(ranges), rng=seed).random(2 * len(ranges))
    points = [
        [r.rounded(r.low + share * (r.high - r.low)) for r, share in zip(ranges, row, strict=True)]
        for row in spread.tolist()
    ]
    found: list[list[float]] = []
    for values in (space.start, [one.middle for one in ranges], *points):
        if values not in found:
            found.append(values)
    return found


def _sampler(past: Sequence[Any], ranges: int, seed: int) -> Any:
    """What suggests the next trial: a new one each time, so that all it knows is the journal.

    A Gaussian process whose noise is fitted as well: settings are a few numbers, over which figures
    change smoothly, and trials are tens; optuna's table recommends TPE from a hundred on. Of
    combinations that were refused, or drawn already, it learns nothing, however, and would suggest
    them again; TPE takes them for bad ones, so the trial after one is its.
    """
    optuna = load_optuna()
    number = (1000 * seed + len(past)) % 2**32
    if past and past[-1].state == optuna.trial.TrialState.PRUNED:
        return optuna.samplers.TPESampler(seed=number, n_startup_trials=2 * ranges)
    return optuna.samplers.GPSampler(seed=number, n_startup_trials=2 * ranges)


def _study(journal: Path) -> Any:
    optuna = load_optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if journal.exists() and not (data := journal.read_bytes()).endswith(b"\n"):
        whole = data[: data.rfind(b"\n") + 1]  # a full disk tore the last line
        write(journal, lambda file: file.write(whole))
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(storage=storage, study_name="tune", load_if_exists=True)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{journal} cannot be read ({type(error).__name__}: {error}); allowed is the journal "
            "of a search, or none"
        ) from None
    states = optuna.trial.TrialState
    for trial in study.get_trials(states=(states.RUNNING,)):  # of a run that was killed
        study.tell(trial.number, state=states.FAIL)
    return study


def load_optuna() -> Any:
    try:
        import optuna
        import scipy  # noqa: F401, which the Gaussian process needs
    except ImportError as error:
        raise RuntimeError(
            f"{error.name} is not installed; `pip install 'guiders[tune]'` gets it"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
