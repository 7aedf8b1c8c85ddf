"""What a search is after: a metric, or scores of one's own, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..metrics import estimates
from ..metrics.bootstrap import Estimate
from ..metrics.estimates import Figure
from ..runs.images import Gallery
from ..runs.registry import ALIASES, METRICS, Metric, Wanted, parse_metrics
from ..storage.prompts import Prompts

DIRECTIONS = ("lower", "higher")
KEPT = "emoji-judge"  # for published figures, never for selection


@dataclass(frozen=True)
class Scored(Wanted):
    """Scores of one's own, or of a reward, as a metric: their mean over the pictures."""

    @property
    def metric(self) -> Metric:
        return Metric(self.name, "", "own", 4)


@dataclass(frozen=True)
class Goal:
    """A figure, and what is better.

    Attributes:
        one: the metric.
        direction: ``lower`` or ``higher``; "" where there is a target.
        target: the best value, if neither lower nor higher is better.
        score: ``score(pictures, prompts) -> scores`` of a metric of one's own: pictures
            (B, 3, H, W) in [0, 1] and B prompts to (B,) numbers.
    """

    one: Wanted
    direction: str = ""
    target: float | None = None
    score: Callable[..., Any] | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the evaluator measures; evaluations cost nothing to count."""
        return tuple(dict.fromkeys((*(() if self.score else (self.one.key,)), "nfe")))

    @property
    def words(self) -> str:
        """Which way is better."""
        if self.target is not None:
            return f"nearest to {self.target:g}"
        return f"{self.direction} is better"

    def loss(self, figure: Figure) -> Figure:
        """The same as something that is better the lower it is."""
        value, draws = figure.value, figure.draws
        if self.target is None:
            sign = 1.0 if self.direction == "lower" else -1.0
            draws = None if draws is None else sign * draws
            return Figure(sign * value, draws, figure.centred)
        if draws is not None:
            if figure.centred:  # by where they lie themselves, they are all too high
                draws = draws - draws.mean() + value
            draws = np.abs(draws - self.target)
        return Figure(abs(value - self.target), draws)

    def gap(self, one: Figure, other: Figure) -> Estimate:
        """The difference of two figures, or of their distances to the target, paired."""
        if self.target is None:
            return one.minus(other)
        return self.loss(one).minus(self.loss(other))

    def verdict(self, difference: Estimate) -> str:
        """Did the loss fall? ``difference`` is that of the best to the start."""
        if math.isnan(difference.low):
            return "cannot be told"
        if difference.high < 0:
            return "holds"
        return "is worse" if difference.low > 0 else "within chance"

    def scored(self, folder: Path, count: int, prompts: Prompts, draws: int, device: str) -> Figure:
        """The mean score of pictures that are there.

        Raises:
            RuntimeError: the function failed, or answered with something else than numbers.
        """
        assert self.score is not None
        gallery, rows = Gallery(folder, count), []
        for batch in range(gallery.batches):
            numbers = gallery.numbers(batch)
            arrays = [np.asarray(picture) for picture in gallery.pictures(batch)]
            pictures = torch.from_numpy(np.stack(arrays)).to(device or "cpu")
            texts = [prompts[number] for number in numbers]
            try:
                with torch.no_grad():
                    found = self.score(pictures.permute(0, 3, 1, 2).float() / 255, texts)
                scores = torch.as_tensor(found).cpu().double().numpy()
            except Exception as error:
                raise RuntimeError(
                    f"metric {self.one.name} failed: {type(error).__name__}: {error}"
                ) from None
            if scores.shape != (len(texts),) or not np.isfinite(scores).all():
                raise RuntimeError(
                    f"metric {self.one.name} gives {scores.tolist()} for {len(texts)} pictures; "
                    f"allowed is a finite number for each"
                )
            rows.append(scores)
        return estimates.mean(np.concatenate(rows), draws)


def parse_goal(text: str, model: str, direction: str = "", target: float | None = None) -> Goal:
    """Read a metric of the evaluator, a reward by name, or ``module:function``.

    Args:
        model: whose networks are the default, as for ``parse_metrics``.
        direction: ``lower`` or ``higher``, for what has none by itself.
        target: the best value, instead.

    Raises:
        ValueError: it is none of them, or which way is better is not known.
    """
    text = text.strip()
    if direction and direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}; allowed is one of {', '.join(DIRECTIONS)}")
    if target is not None:
        if direction:
            raise ValueError(
                f"direction is {direction!r} and target is {target:g}; allowed is one of the two"
            )
        if not math.isfinite(target):
            raise ValueError(f"target is {target}; allowed is a finite number")
    score = None
    if ALIASES.get(text, text).partition(":")[0] in METRICS:
        (one,) = parse_metrics([text], model)
        if reason := _reason(one):
            raise ValueError(f"metric is {text!r}, {reason}; allowed is another metric")
        usual = one.metric.better
        if usual and direction not in ("", usual):
            raise ValueError(f"direction is {direction!r}; allowed for {text} is {usual}")
    else:
        score, one = _scores(text), Scored(text)
        usual = "" if ":" in text else "higher"  # rewards are made to be raised
    if target is None and not (direction or usual):
        raise ValueError(
            f"metric is {text!r}, of which neither lower nor higher is better by itself; needed is "
            "a direction, lower or higher, or a target"
        )
    return Goal(one, "" if target is not None else direction or usual, target, score)


def _reason(one: Wanted) -> str:
    """Why nothing is searched by it; "" where it is."""
    if one.metric.family == "similarity":
        return "which compares with a baseline"
    if one.name == "memory":
        return "which is that of the process and not of one guider"
    if one.network == KEPT:
        return "whose network is kept for published figures and never selects"
    return ""


def _scores(text: str) -> Callable[..., Any]:
    """A reward, or a function of one's own."""
    from ...pipelines.rewards import NAMES, Weighted, parse_reward

    try:
        reward = parse_reward(text)
    except ValueError as error:
        if ":" in text or "(" in text or "+" in text or "*" in text or text in NAMES:
            raise ValueError(f"metric is {text!r}: {error}") from None
        known = [*(name for name in METRICS if not _reason(Wanted(name))), *ALIASES]
        allowed = ", ".join([*known, *(name for name in NAMES if name not in METRICS)])
        raise ValueError(
            f"metric is {text!r}; allowed is one of {allowed}, or module:function"
        ) from None
    if isinstance(reward, Weighted) and [weight for weight, _ in reward.parts] == [1]:
        return reward.parts[0][1]  # a function may also give a list, or an array of numpy
    return reward
