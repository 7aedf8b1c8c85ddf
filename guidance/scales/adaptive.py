"""Adaptive Guidance: stop paying for the second prediction once the two agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..engine.config import choice, number, reject
from .gates import Gate
from ..engine.reference import Asked, Branch, Negative, Reference
from ..engine.state import Rows, State
from ..engine.types import Prediction, Query, Step, cosine, expand, working

NO_SIGNAL = 1e3  # of sigma / alpha
THRESHOLDS = {"x0": 0.999, "eps": 0.991, "output": 0.991}


def agreement(q: Query, a: Prediction, b: Prediction, space: str) -> Tensor:
    """The cosine of two predictions (B, ...) for each image, (B,).

    Where x holds no signal every eps is x, and nothing is known of their agreement: nan.
    """
    if space == "eps" and q.step.sigma > NO_SIGNAL:
        return torch.full((len(q.x),), torch.nan, device=q.x.device)
    if space == "eps":
        return cosine(a.eps(q.step.level), b.eps(q.step.level))
    return cosine(a.x0, b.x0) if space == "x0" else cosine(a.output, b.output_as(a.readout))


@dataclass(frozen=True)
class Adaptive(Gate):
    """Adaptive Guidance: stop guiding an image, for good, once both predictions agree.

    Castillo et al. 2023 (arXiv:2312.12487, AAAI 2025), the AG rule: guide while the cosine of the
    two predictions is below the threshold; the step that reaches it is still guided, all later
    ones use the conditional prediction alone. The cosine need not rise from step to step, so the
    decision is kept. ``Stale`` is the variant that goes on with the last difference.

    The paper's thresholds (0.991, 0.994, 0.996) are for the cosine of eps of its own models. On
    public latent models the two eps differ by about one per cent, so that they agree from the
    first step on; the cosine of the clean images is the default here.

    Attributes:
        scale: the scale before that.
        threshold: of the cosine; above 1 never stops. The default is 0.999 in x0, the paper's
            0.991 in eps and output.
        space: "x0", "eps", or "output" of the network.
        save: instead of a threshold, the share of the run's evaluations that is to be saved, with
            what other gates save: a profile of the model says at which threshold that happens. At
            most a half is.
    """

    formula: ClassVar[str] = "w until cos(D_c, D_u) >= threshold, then 1"

    scale: Any = 7.5
    threshold: Any = number(None, low=-1, high=1, optional=True)  # noqa: RUF009
    space: str = choice("x0", "x0", "eps", "output")
    save: float | None = number(None, low=0, high=0.5, open_ends=True, optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.save is not None and self.threshold is not None:
            raise reject(self, "save", self.save, f"None beside threshold (= {self.threshold:g})")
        if self.save is not None and self.space == "output":
            raise reject(self, "save", self.save, "None beside the space output, or x0 or eps")
        if self.threshold is None and self.save is None:
            self._set("threshold", THRESHOLDS[self.space])
        inner = self.scale
        while isinstance(inner, Gate):
            if isinstance(inner, Adaptive):
                raise reject(self, "scale", str(inner), "a scale without another Adaptive in it")
            inner = inner.scale

    def replace(self, **changes: Any) -> Self:
        """A copy with other settings; threshold and save take the place of each other."""
        if changes.get("save") is not None:
            changes.setdefault("threshold", None)
        elif changes.get("threshold") is not None:
            changes.setdefault("save", None)
        return super().replace(**changes)

    @property
    def intent(self) -> str:
        return "" if self.save is None else f"Adaptive save={self.save:g}"

    def at(self, step: Step, state: State) -> list[float]:
        stopped = state.host("agreed", 0.0)
        values = self.scale.at(step, state)
        return [state.off if stop else value for stop, value in zip(stopped, values, strict=True)]

    def observe(self, q: Query, positive: Prediction, reference: Prediction, state: Rows) -> None:
        super().observe(q, positive, reference, state)
        similar = agreement(q, positive, reference, self.space)
        state.set("agreed", (similar >= self.threshold).float())

    def __str__(self) -> str:
        if self.save is not None:
            return f"{self.scale} until {100 * self.save:g} % of the evaluations are saved"
        return f"{self.scale} until the cosine of {self.space} reaches {self.threshold:.10g}"


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
        gap = positive.minus(answer) / fades
        agreed = state.get("stale", gap.new_zeros(len(gap)))
        now = agreement(q, positive, answer, self.space) >= self.threshold
        stale = expand(agreed, gap).bool()
        gap = torch.where(stale, state.get("gap", torch.zeros_like(gap)), gap)
        state.set("gap", gap)
        state.set("stale", torch.maximum(agreed, now.to(agreed.dtype)))
        guess = working(positive.output) - gap * (fades / gain)
        output = torch.where(stale, guess, answer.output_as(positive.readout))
        return Prediction(positive.x, output, positive.readout)

    def __str__(self) -> str:
        return (
            f"{self.of}, its last difference once the cosine of {self.space} is {self.threshold:g}"
        )
