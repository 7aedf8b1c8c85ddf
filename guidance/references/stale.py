"""Adaptive Guidance with the last difference kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..engine.agreement import THRESHOLDS, agreement
from ..engine.config import choice, number, reject
from ..engine.levels import Step
from ..engine.predictions import Prediction, Query
from ..engine.reference import Asked, Branch, Negative, Reference
from ..engine.state import Rows, State
from ..engine.tensors import append_dims, upcast


@dataclass(frozen=True)
class Stale(Reference):
    """Adaptive Guidance with the last difference: ``CFG(7.5, reference=Stale())``.

    Once the two predictions of an image agree, the reference is no longer evaluated and taken to
    lie where it last lay from the positive prediction. (FastVideo, pull request 1372; the gate is
    that of Castillo et al., arXiv:2312.12487.) The space in which the difference is kept
    decides how it fades: kept in eps it falls with sigma in x0, as true ones do; kept in x0 it
    stays, which guides too much at the end (benchmarks/results/adaptive-cpu.md).

    Attributes:
        threshold, space: as for ``Adaptive``.
        keep: the space of the difference that is kept, "eps", "x0", or "output" of the network.
        of: the reference that is evaluated before.
    """

    formula: ClassVar[str] = "D_u, then D_c - (the last D_c - D_u)"

    threshold: Any = number(None, low=-1, high=1, optional=True)  # noqa: RUF009
    space: str = choice("x0", "x0", "eps", "output")
    of: Reference = Negative()
    keep: str = choice("eps", "eps", "x0", "output")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is None:
            self._set("threshold", THRESHOLDS[self.space])
        if not isinstance(self.of, Reference) or type(self.of).asks is not Reference.asks:
            raise reject(self, "of", self.of, "a reference that is one branch, such as Negative()")

    def branch(self) -> Branch:
        return self.of.branch()

    def asks(self, step: Step, state: State, rows: Any) -> Asked:
        agreed = state.host("stale", 0.0)
        return {self.branch(): [row for row in rows if not agreed[row]]}

    def read(self, q: Query, positive: Prediction, answer: Prediction, state: Rows) -> Prediction:
        gain = positive.readout.gain
        if not gain:
            return answer
        # How the difference in x0 goes with the one that is kept; sigma may be 0 or infinite.
        fades = {"eps": min(max(q.step.sigma, 1e-6), 1e6), "x0": 1.0, "output": gain}[self.keep]
        gap = (positive - answer).tensor() / fades
        agreed = state.get("stale", gap.new_zeros(len(gap)))
        now = (agreement(q, positive, answer, self.space) >= self.threshold).values
        stale = append_dims(agreed, gap).bool()
        gap = torch.where(stale, state.get("gap", torch.zeros_like(gap)), gap)
        state.set("gap", gap)
        state.set("stale", torch.maximum(agreed, now.to(agreed.dtype)))
        guess = upcast(positive.output) - gap * (fades / gain)
        output = torch.where(stale, guess, answer.output_as(positive.readout))
        return Prediction(positive.x, output, positive.readout)

    def __str__(self) -> str:
        return (
            f"{self.of}, its last difference once the cosine of {self.space} is {self.threshold:g}"
        )
