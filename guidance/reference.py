"""WHERE the prediction comes from that guidance moves away from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from .config import Config, choice, reject


@dataclass(frozen=True)
class Branch:
    """A prediction one can ask for; equal branches are evaluated once and shared by all terms.

    Attributes:
        condition: which of the pipeline's prompts.
        model: another network than the pipeline's, called with the same arguments.
        prediction_type: how that network's output is read; "" is like the pipeline's.
    """

    condition: Literal["positive", "negative"]
    model: nn.Module | None = None
    prediction_type: str = ""


POSITIVE = Branch("positive")


class Reference(Config):
    """Base of the references."""

    def branch(self) -> Branch:
        """The branch to evaluate."""
        raise NotImplementedError


@dataclass(frozen=True)
class Negative(Reference):
    """The negative prompt; the empty one where none is given (Ho & Salimans 2022, section 3.2)."""

    def branch(self) -> Branch:
        return Branch("negative")

    def __str__(self) -> str:
        return "negative prompt"


@dataclass(frozen=True)
class WeakModel(Reference):
    """A worse version of the network at the same condition: ``CFG(2, reference=WeakModel(small))``.

    Autoguidance, Karras et al. 2024 (arXiv:2406.02507), equation 3: ``w D_1 + (1 - w) D_0``, where
    D_0 has the same kind of flaws as D_1, only more of them: fewer parameters, less training. It
    needs no negative branch, so the pipeline's own guidance may be off.

    Attributes:
        model: a network with the call signature of the pipeline's denoiser.
        prediction_type: of its output, where it differs from the pipeline's.
    """

    model: Any = None
    prediction_type: str = choice("", "", "epsilon", "v_prediction", "sample", "flow_prediction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, nn.Module):
            raise reject(self, "model", self.model, "a torch.nn.Module")

    def branch(self) -> Branch:
        return Branch("positive", self.model, self.prediction_type)

    def to_dict(self) -> Any:
        raise ValueError(
            f"WeakModel: a network ({type(self.model).__name__}) is not stored as JSON"
        )

    def __str__(self) -> str:
        return f"weak {type(self.model).__name__}"
