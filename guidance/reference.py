"""WHERE the prediction comes from that guidance moves away from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config import Config


@dataclass(frozen=True)
class Branch:
    """A prediction one can ask for; equal branches are evaluated once and shared by all terms."""

    condition: Literal["positive", "negative"]


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
