"""A guider: a sum of terms, and what is done to the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from .config import Config, Stored, fields_of, reject
from .levels import Step
from .predictions import Prediction, Query
from .reference import Branch, Negative, Reference
from .scale import Scale, as_scale
from .state import Rows
from .vectors import Number, Vector


class Guider(Stored):
    """Base of everything that can be attached: ``CFG(5) + APG(3) | Rescale(0.7)``."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """What is added to the positive prediction."""
        raise NotImplementedError

    @property
    def posts(self) -> tuple[Post, ...]:
        """What is then done to the sum, in order."""
        return ()

    @property
    def prepares(self) -> tuple[Prepare, ...]:
        """What is done before, to the positive prediction or what it is asked with."""
        return ()

    def __add__(self, other: Guider) -> Sum:
        if isinstance(other, Scale):
            name = type(other).__name__
            raise ValueError(f"a scale belongs inside its method: {type(self).__name__}({name}())")
        if isinstance(other, (Post, Prepare)):
            raise ValueError(f"what acts on the sum is joined with |: a | {type(other).__name__}()")
        if not isinstance(other, Guider):
            raise ValueError(
                f"{type(self).__name__} + {other!r}: allowed is another guider, such as "
                "CFG(5) + APG(3)"
            )
        if any(guider.posts or guider.prepares for guider in (self, other)):
            raise ValueError("terms are added first: write (a + b) | post, not (a | post) + b")
        return Sum(self.terms + other.terms)

    def __radd__(self, other: int) -> Guider:
        if isinstance(other, int) and other == 0:  # where Python's sum() begins
            return self
        raise ValueError(
            f"{other!r} + {type(self).__name__}: allowed is another guider, such as CFG(5) + APG(3)"
        )

    def __mul__(self, other: object) -> NoReturn:
        raise ValueError(
            f"{type(self).__name__} times {other!r}: a guider's strength is its scale, such as "
            "CFG(10) in place of CFG(5)"
        )

    __rmul__ = __mul__

    def __or__(self, other: Post | Prepare) -> Sum:
        if isinstance(other, Scale):
            name = type(other).__name__
            raise ValueError(f"a scale belongs inside its method: {type(self).__name__}({name}())")
        if isinstance(other, Guider):
            raise ValueError(
                f"guiders are added with +: {type(self).__name__} + {type(other).__name__}"
            )
        if not isinstance(other, (Post, Prepare)):
            raise ValueError(
                f"{type(self).__name__} | {other!r}: allowed is what acts on the result or before, "
                "such as CFG(5) | Rescale(0.7)"
            )
        return Sum(self.terms, (*self.prepares, *self.posts, other))

    def __str__(self) -> str:
        return describe(self)


class Term(Guider):
    """One guidance method: ``x0 = positive + sum of delta``. Subclasses are frozen dataclasses.

    Attributes:
        scale: when and how strongly; 1 means that the reference is not evaluated.
        reference: where the reference prediction comes from.
        off: the scale at which the term does nothing.
        by_products: does ``delta`` depend on scalar products of predictions in x0 alone? Then a
            profile of the model says how strong it is.
    """

    scale: Any
    reference: Reference | None
    off: ClassVar[float] = 1.0
    by_products: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("scale", as_scale(self, self.scale))
        if not isinstance(self.reference, Reference):
            allowed = "a Reference, such as Negative() or WeakModel(network)"
            raise reject(self, "reference", self.reference, allowed)

    @property
    def terms(self) -> tuple[Term, ...]:
        return (self,)

    @property
    def references(self) -> tuple[Reference, ...]:
        """All references that ``delta`` is given; a term with several has its own of this."""
        return () if self.reference is None else (self.reference,)

    @property
    def when(self) -> Scale:
        """The scale, as ``__post_init__`` normalised it."""
        return self.scale

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector | Tensor:
        """The change of the clean image.

        Args:
            q: the latents (B, ...) and the step; only the images that are guided now.
            positive, reference: the predictions (B, ...) for them, as vectors: ``positive -
                reference`` is the gap of the clean images, ``x0`` the clean image, ``vector`` the
                network's output. Of several ``references`` it is a tuple of their predictions.
            scale: a number, or one for each image, none of them ``off``; or a tensor that
                broadcasts with (B, ...), where the scale is a map.
            state: the method's memory of these images.

        Returns:
            A vector, or a tensor (B, ...) of at least float32, in x0 space.
        """
        raise NotImplementedError


class Gradient(Term):
    """Base of the terms that follow the gradient of a score instead of a second prediction.

    ``x0 = positive + sigma * min(sigma / alpha, 100) * scale * grad_x log p``, for a scale of 0
    nothing. They are computed after the other terms, and ``reference`` is the prediction as those
    have it.
    """

    reference: ClassVar[None] = None  # type: ignore[misc]
    off = 0.0

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        self._set("scale", as_scale(self, self.scale))
        if self.when.observes:
            raise reject(self, "scale", str(self.scale), "a scale that needs no reference to agree")

    @property
    def through_network(self) -> bool:
        """Does ``delta`` differentiate what the network said?"""
        return False


class Prepare(Config):
    """What is done before the positive prediction. Subclasses are frozen dataclasses."""

    def blank(self, step: Step, number: int) -> bool:
        """Is the network's output zero at this step, without any evaluation?

        Args:
            number: of the solver step, from 0; its later stages have the same.
        """
        return False

    def positive(self, step: Step) -> Branch | None:
        """The branch that is evaluated in place of the positive one, such as ``Branch("positive",
        change=..., beside="negative")``; ``None`` is the positive one."""
        return None

    def tell(self, step: Step, embedding: Tensor, noise: Tensor) -> Tensor:
        """What the network is told in place of a condition's ``embedding`` (B, ...).

        Args:
            noise: unit normal, of the same shape, of these images and this step.
        """
        return embedding

    @property
    def tells(self) -> bool:
        """Does it change what the network is told?"""
        return type(self).tell is not Prepare.tell

    def __str__(self) -> str:
        return describe(self)


class Post(Config):
    """What is done to the guided result. Subclasses are frozen dataclasses."""

    def __call__(
        self, q: Query, positive: Prediction, guided: Prediction, state: Rows
    ) -> Vector | Tensor:
        """The new network output (B, ...) of the images that were guided at this step.

        Args:
            state: the transform's memory of these images.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        return describe(self)


@dataclass(frozen=True)
class Sum(Guider):
    """Several terms, then what goes with their sum; what ``+`` and ``|`` make."""

    parts: tuple[Term, ...]
    then: tuple[Post | Prepare, ...] = ()

    def __post_init__(self) -> None:
        kinds: tuple[tuple[str, Any, str], ...] = (
            ("parts", Term, "a list of Terms"),
            ("then", (Post, Prepare), "a list of Posts and Prepares"),
        )
        for name, kind, allowed in kinds:
            values = tuple(getattr(self, name))
            wrong = [v for v in values if not isinstance(v, kind)]
            if wrong or (name == "parts" and not values):
                raise reject(self, name, wrong or values, allowed)
            self._set(name, values)

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.parts

    @property
    def posts(self) -> tuple[Post, ...]:
        return tuple(part for part in self.then if isinstance(part, Post))

    @property
    def prepares(self) -> tuple[Prepare, ...]:
        return tuple(part for part in self.then if isinstance(part, Prepare))

    def __str__(self) -> str:
        return " | ".join([" + ".join(map(str, self.parts)), *map(str, self.then)])


def describe(config: Config) -> str:
    """``APG scale 10, eta 0, momentum -0.5``: the settings that are set, in order."""
    parts = []
    for field in fields_of(config):
        value = getattr(config, field.name)
        if value is None or value == Negative():
            continue
        text = f"{value:g}" if isinstance(value, float) else str(value)
        parts.append(f"{field.name} {text}")
    return f"{type(config).__name__} " + ", ".join(parts)
