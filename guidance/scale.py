"""WHEN and how strongly: a number, a schedule, an interval of noise levels, or a stopping rule.

A scale is asked before any network call of a step, and answers with one number for each image.
1 means no guidance, and then the reference prediction is not evaluated at all. (Gradient terms are
off at 0, so gates answer ``state.off``.)
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .config import Config, choice, is_number, number, reject
from .state import Rows, State
from .types import Prediction, Query, Step, cosine


class Scale(Config):
    """Base of the scales."""

    def at(self, step: Step, state: State) -> list[float]:
        """The scale of each of the ``state.batch`` images, at a step not yet evaluated."""
        raise NotImplementedError

    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return value if isinstance(value, Config) else as_scale(cls.__name__, value)

    def observe(self, q: Query, positive: Prediction, reference: Prediction, state: Rows) -> None:
        """See the predictions of the images that were guided; what is learnt counts next step."""


ScaleLike = float | Sequence[float] | Callable[[Step], Any] | Scale


def as_scale(owner: object, value: Any) -> Scale:
    """Numbers, lists of numbers and callables as a ``Scale``."""
    if isinstance(value, Scale):
        return value
    if hasattr(value, "tolist"):  # arrays and tensors
        value = value.tolist()
    if is_number(value) and value >= 0:
        return Constant(value)
    if isinstance(value, (list, tuple)) and value and all(is_number(v) and v >= 0 for v in value):
        return PerImage(tuple(value))
    if callable(value) and not isinstance(value, (Config, type)):
        return Custom(value)
    raise reject(
        owner,
        "scale",
        value,
        "a number of at least 0, one for each image, a Scale or a function of Step",
    )


@dataclass(frozen=True)
class Constant(Scale):
    """The same scale at every step; what a plain number becomes."""

    scale: float = number(1.0, low=0)

    def at(self, step: Step, state: State) -> list[float]:
        return [self.scale] * state.batch

    def to_dict(self) -> float:
        return self.scale

    def __str__(self) -> str:
        return f"{self.scale:g}"


@dataclass(frozen=True)
class PerImage(Scale):
    """A scale for each image of a batch, or for each prompt of several images."""

    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scales:
            raise reject(self, "scales", self.scales, "at least one number")
        for value in self.scales:
            if not is_number(value) or value < 0:
                raise reject(self, "scales", value, "numbers of at least 0")
        self._set("scales", tuple(float(value) for value in self.scales))

    def at(self, step: Step, state: State) -> list[float]:
        copies, rest = divmod(state.batch, len(self.scales))
        if rest or not copies:
            raise ValueError(
                f"scale has {len(self.scales)} values for a batch of {state.batch} images; "
                "allowed is one value for each image or for each prompt"
            )
        return [value for value in self.scales for _ in range(copies)]

    def to_dict(self) -> list[float]:
        return list(self.scales)

    def __str__(self) -> str:
        return "[" + ", ".join(f"{value:g}" for value in self.scales) + "]"


@dataclass(frozen=True)
class Linear(Scale):
    """From ``start`` at the first evaluation to ``end`` at the last, in equal parts.

    Wang et al. 2024 (arXiv:2404.13040) found scales that rise during sampling better than
    constant ones.
    """

    start: float = number(1.0, low=0)
    end: float = number(10.0, low=0)

    def at(self, step: Step, state: State) -> list[float]:
        return [self.start + (self.end - self.start) * step.progress] * state.batch

    def __str__(self) -> str:
        return f"linear from {self.start:g} to {self.end:g}"


@dataclass(frozen=True)
class Cosine(Scale):
    """From ``start`` to ``end`` along half a cosine: slow at both ends (arXiv:2404.13040)."""

    start: float = number(1.0, low=0)
    end: float = number(10.0, low=0)

    def at(self, step: Step, state: State) -> list[float]:
        share = (1 - math.cos(math.pi * step.progress)) / 2
        return [self.start + (self.end - self.start) * share] * state.batch

    def __str__(self) -> str:
        return f"cosine from {self.start:g} to {self.end:g}"


@dataclass(frozen=True)
class Custom(Scale):
    """A function of the ``Step`` alone: it returns a number, or one for each image.

    It is called before the run too, for the plan.
    Only a function that can be imported by name can be stored as JSON, and it is read back only on
    request (``Guider.load(path, functions=True)``), since that runs code.
    """

    function: Callable[[Step], Any]
    runs_code = True

    def __post_init__(self) -> None:
        if isinstance(self.function, str):
            module, _, name = self.function.partition(":")
            try:
                self._set("function", getattr(importlib.import_module(module), name))
            except (ImportError, AttributeError, ValueError):
                raise reject(self, "function", self.function, "module:function") from None
        if not callable(self.function):
            raise reject(self, "function", self.function, "a function of Step")

    def at(self, step: Step, state: State) -> list[float]:
        value = as_scale(self, self.function(step))
        if isinstance(value, Custom):
            raise reject(self, "scale", value, "a number, or one for each image")
        return value.at(step, state)

    def to_dict(self) -> dict[str, Any]:
        name = getattr(self.function, "__qualname__", "")
        if not name.isidentifier() or getattr(self.function, "__module__", "") == "__main__":
            raise reject(
                self, "function", self.function, "a function of an importable module, to be stored"
            )
        return {"type": "Custom", "function": f"{self.function.__module__}:{name}"}

    def __str__(self) -> str:
        return getattr(self.function, "__name__", "custom")


class Gate(Scale):
    """Base of the rules that let another scale through at some steps and switch off at others."""

    scale: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("scale", as_scale(self, self.scale))

    def observe(self, q: Query, positive: Prediction, reference: Prediction, state: Rows) -> None:
        self.scale.observe(q, positive, reference, state)


@dataclass(frozen=True)
class Interval(Gate):
    """Guide only where ``low < sigma <= high``; elsewhere the reference is not evaluated.

    Kynkaanniemi et al. 2024 (arXiv:2404.07724, section 3). sigma is in EDM's unit
    (``sigma / alpha``), which is the same for every model; published bounds are rounded to three
    digits, so take them a little wider than printed. Solvers of second order keep the decision of
    the step's first evaluation.

    Attributes:
        scale: the scale inside.
        low, high: bounds of sigma; ``high=None`` is no bound. The paper's best for SDXL is
            (0.28, 5.42], for EDM2-XXL at 512 px (0.19, 1.61].
    """

    scale: Any = 7.5
    low: float = number(0.0, low=0)
    high: float | None = number(None, low=0, optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high is not None and self.high <= self.low:
            raise reject(self, "high", self.high, f"a number above low (= {self.low:g}) or None")

    def at(self, step: Step, state: State) -> list[float]:
        inside = self.low < step.sigma and (self.high is None or step.sigma <= self.high)
        return self.scale.at(step, state) if inside else [state.off] * state.batch

    def __str__(self) -> str:
        high = "inf" if self.high is None else f"{self.high:g}"
        return f"{self.scale} for sigma in ({self.low:g}, {high}]"


@dataclass(frozen=True)
class Adaptive(Gate):
    """Adaptive Guidance: stop guiding an image, for good, once both predictions agree.

    Castillo et al. 2023 (arXiv:2312.12487, AAAI 2025), the AG rule: guide while the cosine of the
    two predictions is below the threshold; the step that reaches it is still guided, all later
    ones use the conditional prediction alone.

    The paper's thresholds (0.991, 0.994, 0.996) are for the cosine of eps of its own models. On
    public latent models the two eps differ by about one per cent, so that they agree from the
    first step on; the cosine of the clean images is the default here.

    Attributes:
        scale: the scale before that.
        threshold: of the cosine; above 1 never stops.
        space: "x0", "eps", or "output" of the network.
    """

    scale: Any = 7.5
    threshold: float = number(0.999, low=-1)
    space: str = choice("x0", "x0", "eps", "output")

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = self.scale
        while isinstance(inner, Gate):
            if isinstance(inner, Adaptive):
                raise reject(self, "scale", str(inner), "a scale without another Adaptive in it")
            inner = inner.scale

    def at(self, step: Step, state: State) -> list[float]:
        stopped = state.host("agreed", 0.0)
        values = self.scale.at(step, state)
        return [state.off if stop else value for stop, value in zip(stopped, values, strict=True)]

    def observe(self, q: Query, positive: Prediction, reference: Prediction, state: Rows) -> None:
        super().observe(q, positive, reference, state)
        agreement = cosine(*(self._in_space(p, q) for p in (positive, reference)))
        state.set("agreed", (agreement >= self.threshold).float())

    def _in_space(self, prediction: Prediction, q: Query) -> Any:
        if self.space == "eps":
            return prediction.eps(q.step.level)
        return prediction.x0 if self.space == "x0" else prediction.output

    def __str__(self) -> str:
        return f"{self.scale} until the cosine of {self.space} reaches {self.threshold:g}"
