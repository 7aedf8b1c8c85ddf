"""Classifiers and rewards by name, for guiders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def load_classifier(name: str, prompts: Sequence[str], pipe: Any) -> Callable[[Tensor], Tensor]:
    """A classifier of pictures over prompts."""
    raise ValueError(name)


def load_reward(name: str, pipe: Any) -> Callable[[Tensor, Sequence[Any]], Tensor]:
    """A reward of pictures and prompts."""
    raise ValueError(name)
