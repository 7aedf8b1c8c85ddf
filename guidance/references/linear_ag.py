"""LinearAG: some of the second predictions are estimated from earlier ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.config import reject
from ..engine.files import write_tensors
from ..engine.levels import Level, Step
from ..engine.predictions import Prediction, Query
from ..engine.reference import NEGATIVE, Asked, Branch, Reference
from ..engine.state import Rows, State
from ..engine.tensors import upcast

TRUE, ESTIMATE, NONE = "true", "estimate", "none"
SPACES = ("eps", "x0", "output")


def half_and_half(total: int) -> tuple[str, ...]:
    """The policy of the paper: true and estimated in turn in the first half, then not guided."""
    return tuple(NONE if 2 * i >= total else (TRUE, ESTIMATE)[i % 2] for i in range(total))


def run_before(policy: Sequence[str], index: int) -> int:
    """How many steps in a row were guided before this one."""
    return next((n for n in range(index) if policy[index - n - 1] == NONE), index)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What a linear estimate of the reference prediction was fitted to, and its weights.

    Attributes:
        weights: (T, 2 K + 1) in float64, for each evaluation those of c_t, then of c_(t-1),
            u_(t-1), c_(t-2), u_(t-2) and so on, K steps back; 0 where nothing is estimated.
        sigma: (T) the noise levels, in EDM's unit.
        policy: for each evaluation "true", "estimate" or "none".
        scale: the guidance scale.
        space: of the predictions: "eps", "x0", or "output" of the network.
        notes: how it was fitted, for people.
    """

    weights: Tensor
    sigma: tuple[float, ...]
    policy: tuple[str, ...]
    scale: float
    space: str = "eps"
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        total, shape = len(self.sigma), tuple(self.weights.shape)
        if len(shape) != 2 or shape[0] != total or not shape[1] % 2:
            raise reject(self, "weights", shape, f"({total}, an odd number)")
        if not bool(self.weights.isfinite().all()):
            raise reject(self, "weights", "NaN or infinite", "finite numbers")
        if len(self.policy) != total or set(self.policy) - {TRUE, ESTIMATE, NONE}:
            raise reject(self, "policy", self.policy, f"{total} of {TRUE}, {ESTIMATE}, {NONE}")
        if self.space not in SPACES:
            raise reject(self, "space", self.space, "one of " + ", ".join(SPACES))
        for index, word in enumerate(self.policy):
            if word == ESTIMATE and self.depth(index) > run_before(self.policy, index):
                raise reject(
                    self, "policy", ",".join(self.policy), f"one that guides the "
                    f"{self.depth(index)} steps before step {index}, to which its weights reach"
                )  # fmt: skip
            if word == ESTIMATE and math.isinf(self.sigma[index]):
                raise reject(self, "policy", word, f"{TRUE} at step {index}, where alpha is 0")

    @property
    def history(self) -> int:
        """K: how many steps back the weights reach."""
        return self.weights.shape[1] // 2

    def depth(self, index: int) -> int:
        """How many steps back those of one evaluation reach."""
        there = self.weights[index].nonzero().flatten().tolist()
        return (max(there, default=0) + 1) // 2

    def __str__(self) -> str:
        ends = f"{self.sigma[0]:.4g} to {self.sigma[-1]:.4g}"
        return f"{len(self.sigma)} evaluations from sigma {ends} at scale {self.scale:g}"

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, with everything but the numbers in its metadata."""
        tensors = {
            "weights": self.weights.double().contiguous(),
            "sigma": torch.tensor(self.sigma, dtype=torch.float64),
        }
        words = {"policy": ",".join(self.policy), "scale": repr(self.scale), "space": self.space}
        write_tensors(Path(path), tensors, {**self.notes, "format": "guiders linear-ag 1", **words})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file cannot be read, or is not one of these.
        """
        try:
            with safe_open(path, "pt") as file:
                notes = dict(file.metadata() or {})
                if notes.pop("format", "") != "guiders linear-ag 1":
                    raise KeyError("it was not written by `guiders fit linear-ag`")
                weights, sigma = file.get_tensor("weights"), file.get_tensor("sigma").tolist()
                policy, scale = notes.pop("policy").split(","), float(notes.pop("scale"))
                space = notes.pop("space")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            allowed = f"a file written by `guiders fit linear-ag` ({error})"
            raise reject("LinearAG", "coefficients", str(path), allowed) from None
        return cls(weights, tuple(sigma), tuple(policy), scale, space, notes)


def coordinates(prediction: Prediction, level: Level, space: str) -> Tensor:
    """A prediction (B, ...) in one of ``SPACES``, in at least float32."""
    if space == "eps":
        return prediction.eps(level).tensor()
    return prediction.x0.tensor() if space == "x0" else upcast(prediction.output)


def factor(prediction: Prediction, level: Level, space: str) -> float:
    """The change of the network's output where a coordinate changes by 1."""
    if space == "output":
        return 1.0
    return (-level.std / level.alpha if space == "eps" else 1.0) / prediction.readout.gain


@dataclass(frozen=True)
class LinearAG(Reference):
    """Every other reference prediction is estimated: ``CFG(7.5, reference=LinearAG(file))``.

    Castillo et al. 2023 (arXiv:2312.12487, AAAI 2025), LinearAG: the scores along a path are so
    regular that where u is not evaluated it is taken to be ::

        u_t = sum_(i <= t) a_i c_i + sum_(i < t) b_i u_i

    over this and earlier steps i, an earlier estimate standing for its u. The numbers a, b of each
    step are fitted by least squares over a few hundred paths (``guiders fit linear-ag``), for one
    model, list of noise levels, scale and policy; another list or scale is refused. The policy of
    the paper evaluates and estimates u in turn in the first half of the run and does not guide in
    the second: 25 evaluations for 20 steps instead of 40. Which steps and predictions the paper's
    sums run over is not known to us; ours take all of the last K steps.

    Attributes:
        coefficients: the path of the file that ``guiders fit linear-ag`` wrote, or
            ``Coefficients``, which are not stored as JSON.
    """

    formula: ClassVar[str] = "D_u, or sum a_i c_i + sum b_i u_i over the steps so far, or D_c"

    coefficients: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.coefficients
        if isinstance(given, (str, Path)) and str(given):
            self._set("coefficients", str(given))
            given = Coefficients.load(given)
        elif not isinstance(given, Coefficients):
            allowed = "the path of a file written by `guiders fit linear-ag`, or Coefficients"
            raise reject(self, "coefficients", given, allowed)
        self._set("_fit", given)

    @property
    def fit(self) -> Coefficients:
        """The coefficients, read from the file."""
        found: Coefficients = self.__dict__["_fit"]
        return found

    def branch(self) -> Branch:
        return NEGATIVE

    def admits(self, step: Step, scales: Sequence[float]) -> bool:
        fit, index = self.fit, step.index
        if step.stage:
            raise ValueError(
                f"LinearAG: evaluation {index} is a further stage of a solver step; allowed are "
                "solvers with one evaluation a step"
            )
        if step.total != len(fit.sigma):
            raise self._other(f"the run has {step.total} evaluations", str(len(fit.sigma)))
        here, known = step.sigma, fit.sigma[index]
        if not math.isclose(here, known, rel_tol=1e-4, abs_tol=1e-9):
            raise self._other(f"sigma is {here:.5g} at evaluation {index}", f"{known:.5g}")
        for scale in scales:
            if not math.isclose(scale, fit.scale, rel_tol=1e-6):
                raise self._other(f"scale is {scale:g} at evaluation {index}", f"{fit.scale:g}")
        return fit.policy[index] != NONE

    def asks(self, step: Step, state: State, rows: Sequence[int]) -> Asked:
        return {NEGATIVE: rows} if self.fit.policy[step.index] == TRUE else {}

    def read(self, q: Query, positive: Prediction, answer: Prediction, state: Rows) -> Prediction:
        fit, level, index = self.fit, q.step.level, q.step.index
        if not positive.readout.gain:  # x0 does not depend on the output
            return answer
        c = coordinates(positive, level, fit.space)
        # (rows, 2 K, ...): c and u of the last step, of the one before, and so on.
        past = state.get("past", c.new_zeros((len(c), 2 * fit.history, *c.shape[1:])))
        # On the host: how many steps without a gap there are, and where the next one would be.
        run, following = state.get("run", torch.zeros(len(c), 2)).unbind(1)
        run = torch.where(following == index, run, 0)
        if fit.policy[index] == TRUE:
            u, reference = coordinates(answer, level, fit.space), answer
        else:
            self._has_history(index, int(run.min()))
            first, *others = fit.weights[index].tolist()
            u = first * c
            for place, weight in enumerate(others):
                if weight:
                    u = u + weight * past[:, place]
            change = factor(positive, level, fit.space) * (u - c)
            output = upcast(positive.output) + change
            reference = Prediction(positive.x, output, positive.readout)
        state.set("past", torch.cat([torch.stack([c, u], 1), past], 1)[:, : 2 * fit.history])
        state.set("run", torch.stack([run + 1, torch.full_like(run, index + 1)], 1))
        return reference

    def _has_history(self, index: int, there: int) -> None:
        needed = self.fit.depth(index)
        if there < needed:
            raise ValueError(
                f"LinearAG: the estimate at step {index} needs steps {index - needed} to "
                f"{index - 1} guided, and an image was not at step {index - there - 1}; allowed "
                "is a scale that is not off at any of them"
            )

    def _other(self, what: str, allowed: str) -> ValueError:
        return ValueError(
            f"LinearAG: {what}; allowed is {allowed}: {self._source} is for {self.fit}; use that "
            "scheduler, number of steps and scale, or fit again"
        )

    @property
    def _source(self) -> str:
        return self.coefficients if isinstance(self.coefficients, str) else "its fit"

    def to_dict(self) -> Any:
        if isinstance(self.coefficients, str):
            return super().to_dict()
        raise ValueError("LinearAG: coefficients are stored as JSON by path; save them to a file")

    def __str__(self) -> str:
        return f"linear estimate, {self._source}"
