"""Fit LinearAG to a pipeline: least squares over many paths, of which only products are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...guidance import CFG, NEGATIVE, Branch, LinearAG, Negative, Prepare, Reference
from ...guidance.engine.levels import Step
from ...guidance.engine.predictions import Prediction, Query
from ...guidance.engine.state import Rows
from ...guidance.references.linear_ag import (
    ESTIMATE,
    NONE,
    SPACES,
    Coefficients,
    coordinates,
    half_and_half,
    run_before,
)
from ..attach.guided import guided
from ..generation.generate import sample
from ..generation.settings import Settings

C, R, U = range(3)  # the conditional prediction, the reference that was used, the true one


@dataclass
class Score:
    """How good the estimate of one step is on held-out paths.

    ``r2`` is 1 - |u - estimate|^2 / |u|^2, ``gap`` the same with |u - c|^2 below: the share of the
    difference of both predictions that is known without evaluating it. ``forced`` is on paths of
    plain CFG, with true predictions in the past; ``deployed`` on those of LinearAG itself.
    """

    step: int
    sigma: float
    r2_forced: float
    gap_forced: float
    r2_deployed: float
    gap_deployed: float


@dataclass
class Fit:
    """The coefficients and how good they are."""

    coefficients: Coefficients
    scores: list[Score]

    def __str__(self) -> str:
        """A table, one line for each step that is estimated."""
        head = "          on paths of CFG        on its own paths"
        lines = [
            head,
            f"{'step':>4} {'sigma':>8} {'R2':>10} {'of the gap':>10} {'R2':>10} {'of the gap':>10}",
        ]
        lines += [
            f"{s.step:>4} {s.sigma:>8.3f} {s.r2_forced:>10.6f} {s.gap_forced:>11.4f} "
            f"{s.r2_deployed:>10.6f} {s.gap_deployed:>11.4f}"
            for s in self.scores
        ]
        return "\n".join(lines)


def fit_linear_ag(
    pipe: Any,
    jobs: Sequence[Settings],
    guidance_scale: float = 7.5,
    *,
    held_out: Sequence[Settings] = (),
    policy: Sequence[str] | None = None,
    space: str = "eps",
    history: int | None = None,
    ridge: float = 1e-6,
    rounds: int = 1,
    batch_size: int = 8,
    quiet: bool = False,
) -> Fit:
    """Fit the estimates of ``LinearAG`` (Castillo et al., arXiv:2312.12487) to a pipeline.

    First on paths of plain CFG; then ``rounds`` times on those of the estimates found before, with
    the estimates in the past as they will be in use, since errors change the path. Nothing
    of a path is kept but the products of its predictions with each other.

    Args:
        pipe: the pipeline, with the scheduler to be used.
        jobs: a path each; they differ in prompt, negative prompt and seed only.
        held_out: paths for the scores.
        policy: "true", "estimate" or "none" for each evaluation; the paper's by default.
        space: of the predictions, "eps", "x0" or "output".
        history: steps back; all by default.
        ridge: is added to the diagonal, in parts of its mean: scores of neighbouring steps are
            nearly collinear.
        rounds: fits under feedback.

    Raises:
        ValueError: an argument is not allowed, or the scheduler evaluates twice a step.
    """
    for name, value, least in (("history", history, 0), ("ridge", ridge, 0), ("rounds", rounds, 0),
                               ("batch_size", batch_size, 1), ("paths", len(jobs), 1)):  # fmt: skip
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}; allowed is at least {least}")
    if space not in SPACES:
        raise ValueError(f"space is {space!r}; allowed is one of {', '.join(SPACES)}")
    if guidance_scale == 1:
        raise ValueError("guidance_scale is 1; allowed is any other, 1 has nothing to estimate")
    bar = tqdm(total=len(jobs) * (1 + rounds) + 2 * len(held_out), desc="paths", disable=quiet)
    plan = _Plan(policy)

    def walk(paths: Sequence[Settings], rule: Reference) -> Tensor:
        total: Any = 0
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            seen: list[Tensor] = []

            def see(q: Query, *predictions: Prediction, seen: list[Tensor] = seen) -> None:
                values = [coordinates(p, q.step.level, space).flatten(1) for p in predictions]
                now = torch.stack(values, 1).cpu().double()
                for _ in range(len(seen), q.step.index):  # steps that were not guided
                    seen.append(torch.zeros_like(now))
                seen.append(now)

            guider = CFG(guidance_scale, reference=_Observed(rule, plan, see)) | _UpTo(plan)
            with guided(pipe, guider, quiet=True) as run:
                sample(pipe, batch, output_type="latent")
            plan.steps = run.last.steps
            vectors = torch.cat(seen, 1).transpose(0, 1).flatten(1)  # (3 m, elements)
            total = total + vectors @ vectors.T
            bar.update(len(batch))
        return total

    forced = walk(jobs, Negative())
    weights = solve(forced, plan.policy, history, ridge)

    def coefficients(notes: dict[str, str] | None = None) -> Coefficients:
        sigma = tuple(step.sigma for step in plan.steps)
        return Coefficients(weights, sigma, plan.policy, guidance_scale, space, notes or {})

    for _ in range(rounds):
        weights = solve(walk(jobs, LinearAG(coefficients())), plan.policy, history, ridge)
    scores: list[Score] = []
    if held_out:
        forced = walk(held_out, Negative())
        deployed = walk(held_out, LinearAG(coefficients()))
        for index, word in enumerate(plan.policy):
            if word == ESTIMATE:
                parts = (*score(forced, weights, index), *score(deployed, weights, index))
                scores.append(Score(index, plan.steps[index].sigma, *parts))
    bar.close()
    notes = {
        "model": jobs[0].model,
        "negative_prompt": jobs[0].negative_prompt,
        "scheduler": type(pipe.scheduler).__name__,
        "paths": str(len(jobs)),
        "held_out_paths": str(len(held_out)),
        "ridge": repr(ridge),
        "rounds": str(rounds),
        "scores": json.dumps([vars(one) for one in scores]),
    }
    return Fit(coefficients(notes), scores)


def solve(products: Tensor, policy: Sequence[str], history: int | None, ridge: float) -> Tensor:
    """The weights, as ``Coefficients`` has them, from the products (3 m, 3 m) of predictions."""
    depths = [
        min(run_before(policy, i), len(policy) if history is None else history)
        if word == ESTIMATE else 0
        for i, word in enumerate(policy)
    ]  # fmt: skip
    weights = torch.zeros(len(policy), 2 * max(depths) + 1, dtype=torch.float64)
    for index, word in enumerate(policy):
        if word == ESTIMATE:
            own = _regressors(index, depths[index])
            gram, cross = products[own][:, own], products[own, 3 * index + U]
            gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(own), dtype=gram.dtype)
            found = torch.linalg.lstsq(gram, cross[:, None], driver="gelsd").solution
            weights[index, : len(own)] = found.flatten()
    return weights


def score(products: Tensor, weights: Tensor, index: int) -> tuple[float, float]:
    """R^2 of an estimate, and its share of the gap, from the products of paths."""
    own = _regressors(index, min(index, weights.shape[1] // 2))
    w, target, c = weights[index, : len(own)], 3 * index + U, 3 * index + C
    gram, cross, size = products[own][:, own], products[own, target], products[target, target]
    missed = w @ gram @ w - 2 * w @ cross + size
    gap = products[c, c] - 2 * products[c, target] + size
    return float(1 - missed / size), float(1 - missed / gap)


def _regressors(index: int, depth: int) -> list[int]:
    """The rows of c_t, c_(t-1), u_(t-1), ... among the products."""
    past = [3 * (index - back) + kind for back in range(1, depth + 1) for kind in (C, R)]
    return [3 * index + C, *past]


class _Plan:
    """The policy of a run, once its number of evaluations is known."""

    def __init__(self, given: Sequence[str] | None) -> None:
        self.given, self.policy = given, tuple(given or ())
        self.steps: list[Step] = []

    def at(self, step: Step) -> str:
        """What is done at a step; past the last estimate "" for nothing."""
        if step.stage:
            raise ValueError(
                f"scheduler has further stages (evaluation {step.index}); allowed are those with "
                "one evaluation a step"
            )
        self.policy = tuple(self.given or half_and_half(step.total))
        if len(self.policy) != step.total or ESTIMATE not in self.policy:
            allowed = f"{step.total} words, one for each evaluation, and one of them {ESTIMATE}"
            raise ValueError(f"policy is {','.join(self.policy)}; allowed are {allowed}")
        last = max(i for i, word in enumerate(self.policy) if word == ESTIMATE)
        return self.policy[step.index] if step.index <= last else ""


class _Observed(Reference):
    """Evaluates u at every step, and shows it with c and what ``rule`` makes of them."""

    def __init__(self, rule: Reference, plan: _Plan, see: Callable[..., None]) -> None:
        self.rule, self.plan, self.see = rule, plan, see

    def admits(self, step: Step, scales: Sequence[float]) -> bool:
        return self.plan.at(step) != NONE

    def branch(self) -> Branch:
        return NEGATIVE

    def read(self, q: Query, positive: Prediction, answer: Prediction, state: Rows) -> Prediction:
        reference = self.rule.read(q, positive, answer, state)
        self.see(q, positive, reference, answer)
        return reference


class _UpTo(Prepare):
    """Nothing is evaluated after the last estimate."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan

    def blank(self, step: Step, number: int) -> bool:
        return not self.plan.at(step)

    def __str__(self) -> str:
        return "up to the last estimate"
