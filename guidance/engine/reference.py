"""WHERE the prediction comes from that guidance moves away from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from .config import Config
from .context import Condition
from .levels import Step
from .predictions import Prediction, Query
from .state import Rows, State


@dataclass(frozen=True)
class Branch:
    """A prediction one can ask for; equal branches are evaluated once and shared by all terms.

    Attributes:
        condition: which of the pipeline's prompts, by name ("positive", "negative", or what else it
            has), or another one.
        model: another network than the pipeline's, called with the same arguments; or its name,
            see ``WeakModel``.
        prediction_type: how that network's output is read; "" is like the pipeline's.
        change: what is done to the network for this prediction: a reference that perturbs it.
        beside: a second condition, which ``change.apply`` is given too, see there.
        elsewhere: what the network sees in place of the run's latents. Equal ones give the same.
    """

    condition: str | Condition
    model: Callable[..., Any] | str | None = None
    prediction_type: str = ""
    change: Perturbation | None = None
    beside: str | Condition | None = None
    elsewhere: Latents | None = None

    def __str__(self) -> str:
        where = self.condition if isinstance(self.condition, str) else f"{self.condition.name!r}"
        by = f" of {name_of(self.model)}"
        changed = f" with {type(self.change).__name__}" if self.change else ""
        return f"{where}{by if self.model is not None else ''}{changed}"


class Latents:
    """Base of other latents than the run's, such as those of an inverted trajectory."""

    def at(self, x: Tensor, step: Step, images: Sequence[int]) -> Tensor:
        """What the network sees for these images, at the noise level of the step.

        Args:
            x: what it would see, (images, ...).
        """
        raise NotImplementedError


def name_of(model: Any) -> str:
    """A network, a function or a name, in a word."""
    return model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)


POSITIVE = Branch("positive")
NEGATIVE = Branch("negative")

Asked = Mapping[Branch, Sequence[int]]
"""For each branch the rows, of the images that a method is about, for which it is needed."""


@dataclass(frozen=True)
class Follow:
    """What a reference asks for once it has seen the positive prediction.

    Attributes:
        asked: further branches; rows that no branch is asked for keep the positive prediction.
        gains: for each row, a factor to ``scale - 1``; 0 leaves the image unguided.
    """

    asked: Asked = field(default_factory=dict)
    gains: Sequence[float] | None = None


class Reference(Config):
    """Base of the references.

    Most are one branch, and say which. Others decide by row and step (``asks``), need the
    positive prediction first (``follow``), or make up a prediction from what they kept (``read``).
    """

    needs_positive: ClassVar[bool] = False  # does it ask for more in ``follow``?

    def branch(self) -> Branch:
        """The branch to evaluate."""
        raise NotImplementedError

    @property
    def prompts(self) -> Sequence[Any]:
        """Other prompts, or classes, than the pipeline's own that it may ask for."""
        return ()

    def admits(self, step: Step, scales: Sequence[float]) -> bool:
        """Is there guidance at this step? A reference that is made for certain noise levels, or
        scales, complains of others here.

        Args:
            scales: of the images that are to be guided; none of them will be if the answer is no.
        """
        return True

    def asks(self, step: Step, state: State, rows: Sequence[int]) -> Asked:
        """What to evaluate for ``rows``, those that are guided at this step; asked before any
        network call."""
        return {self.branch(): rows}

    def most(self, step: Step, state: State, rows: Sequence[int]) -> Asked:
        """The most that it may ask for at a step, before and after the positive prediction."""
        return self.asks(step, state, rows)

    def follow(self, q: Query, positive: Prediction, state: Rows) -> Follow:
        """What else to evaluate, now that the positive prediction is known."""
        return Follow()

    def read(self, q: Query, positive: Prediction, answer: Prediction, state: Rows) -> Prediction:
        """The reference prediction.

        Args:
            answer: what was evaluated; the positive prediction in rows for which nothing was.
        """
        return answer


class Perturbation(Reference):
    """Base of the references that are the pipeline's own network, changed for one prediction."""

    def branch(self) -> Branch:
        return Branch("positive", change=self)

    def apply(self, network: Any, inputs: Any) -> AbstractContextManager[Any]:
        """The network inside the ``with`` is changed; afterwards it is as it was.

        The ``with`` may give a dictionary of tensors (rows, ...), which is filled inside, such as
        by attention maps: they come back as the prediction's ``inner``.

        Args:
            network: the pipeline's denoiser.
            inputs: what it is about to be called with, ``x``, ``args`` and ``kwargs``; of a branch
                that has a second condition ``beside``, ``inputs.beside`` are the same with that.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Negative(Reference):
    """The negative prompt; the empty one where none is given (Ho & Salimans 2022, section 3.2)."""

    formula: ClassVar[str] = "D_u, at the negative prompt"

    def branch(self) -> Branch:
        return NEGATIVE

    def __str__(self) -> str:
        return "negative prompt"
