"""Adaptive Guidance: stop paying for the second prediction once the two agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..engine.agreement import THRESHOLDS, agreement
from ..engine.config import choice, number, reject
from ..engine.levels import Step
from ..engine.predictions import Prediction, Query
from ..engine.scale import Gate
from ..engine.state import Rows, State


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
        threshold: of the cosine, at most 1. The default is 0.999 in x0, the paper's
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
        state.set("agreed", (similar >= self.threshold).values.float())

    def __str__(self) -> str:
        if self.save is not None:
            return f"{self.scale} until {100 * self.save:g} % of the evaluations are saved"
        return f"{self.scale} until the cosine of {self.space} reaches {self.threshold:.10g}"
