"""WHEN and how strongly: a number, one for each image, a schedule, a function.

A scale is asked before any network call of a step, and answers with one number for each image.
1 means no guidance, and then the reference prediction is not evaluated at all. (Gradient terms are
off at 0, so gates answer ``state.off``.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from . import user_code
from .config import Config, is_number, number, reject
from .levels import Step
from .predictions import Prediction, Query
from .state import Rows, State


class Scale(Config):
    """Base of the scales."""

    def at(self, step: Step, state: State) -> list[float]:
        """The scale of each of the ``state.batch`` images, at a step not yet evaluated.

        An image's may be a tensor that broadcasts with its latents: a scale for each pixel or
        frame. Such an image is always guided.
        """
        raise NotImplementedError

    @property
    def observes(self) -> bool:
        """Does it need to see a reference prediction?"""
        return type(self).observe is not Scale.observe

    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return value if isinstance(value, Config) else as_scale(cls.__name__, value)

    def observe(self, q: Query, positive: Prediction, reference: Prediction, state: Rows) -> None:
        """See the predictions of the images that were guided; what is learnt counts next step."""

    @property
    def inner(self) -> Scale:
        """The scale without the gates around it."""
        return self

    def map_inner(self, change: Callable[[Scale], ScaleLike]) -> ScaleLike:
        """The same with ``change(inner)`` in place of the scale inside the gates."""
        return change(self)


ScaleLike = float | Sequence[float] | Callable[[Step], Any] | Scale


def as_scale(owner: object, value: Any) -> Scale:
    """Numbers, lists of numbers and callables (``ScaleLike``) as a ``Scale``.

    Raises:
        ValueError: it is something else; ``owner`` is whose scale it was to be.
    """
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

    formula: ClassVar[str] = "w"

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

    formula: ClassVar[str] = "w_i of image i"

    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        wrong = [value for value in self.scales if not is_number(value) or value < 0]
        if wrong or not self.scales:
            raise reject(self, "scales", wrong or self.scales, "at least one number of at least 0")
        self._set("scales", tuple(float(value) for value in self.scales))

    def at(self, step: Step, state: State) -> list[float]:
        copies, rest = divmod(state.batch, len(self.scales))
        if rest or not copies:
            raise ValueError(
                "scale: expected one value for each image or for each prompt, got "
                f"{len(self.scales)} for a batch of {state.batch} images"
            )
        return [value for value in self.scales for _ in range(copies)]

    def to_dict(self) -> list[float]:
        return list(self.scales)

    def __str__(self) -> str:
        return "[" + ", ".join(f"{value:g}" for value in self.scales) + "]"


@dataclass(frozen=True)
class Custom(Scale):
    """A function of the ``Step`` alone: it returns a number, or one for each image.

    It is also called before the run, for the plan.
    Only a function that can be imported by name is stored as JSON, and it is read back only on
    request (``Guider.load(path, functions=True)``), since that runs code.

    Attributes:
        function: the function, or its name, ``module:function`` or ``mine.py:function``.
    """

    formula: ClassVar[str] = "a function of the step"

    function: Callable[[Step], Any]

    @classmethod
    def runs_code(cls, settings: dict[str, Any]) -> bool:
        return not user_code.was_found(settings.get("function"))

    def __post_init__(self) -> None:
        if isinstance(self.function, str):
            self._set("function", user_code.find(self.function))
        if not callable(self.function):
            raise reject(self, "function", self.function, "a function of Step")

    def at(self, step: Step, state: State) -> list[float]:
        value = as_scale(self, self.function(step))
        if isinstance(value, Custom):
            raise reject(
                self, "function", value, "one that returns a number, or one for each image"
            )
        return value.at(step, state)

    def to_dict(self) -> dict[str, str]:
        name = getattr(self.function, "__qualname__", "")
        if not name.isidentifier() or ":" not in (found := user_code.name_of(self.function)):
            raise reject(
                self, "function", self.function, "a function of an importable module, to be stored"
            )
        return {"type": "Custom", "function": found}

    def __str__(self) -> str:
        return getattr(self.function, "__name__", "custom")


class Gate(Scale):
    """Base of the rules that let another scale through at some steps and switch off at others.

    Attributes:
        scale: the one inside, which ``__post_init__`` makes a ``Scale``.
    """

    scale: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("scale", as_scale(self, self.scale))

    @property
    def inner(self) -> Scale:
        found: Scale = self.scale.inner
        return found

    def map_inner(self, change: Callable[[Scale], ScaleLike]) -> Self:
        return self.replace(scale=self.scale.map_inner(change))

    @property
    def observes(self) -> bool:
        return type(self).observe is not Gate.observe or self.scale.observes

    def observe(self, q: Query, positive: Prediction, reference: Prediction, state: Rows) -> None:
        self.scale.observe(q, positive, reference, state)
