"""Blocks of a network by number or name, as references name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.config import is_number, reject
from ..engine.reference import Perturbation


def as_layers(owner: Perturbation, layers: Any) -> tuple[int | str, ...] | None:
    """Blocks by number or name; one alone may be given without brackets.

    Raises:
        ValueError: it is something else, or nothing.
    """
    if layers is None:
        return None
    several = layers if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    found: list[int | str] = []
    for layer in several:
        if isinstance(layer, str) and layer:
            found.append(layer)
        elif is_number(layer) and layer >= 0 and int(layer) == layer:
            found.append(int(layer))
        else:
            found = []
            break
    if not found:
        raise reject(owner, "layers", layers, "numbers or names of blocks, or None")
    return tuple(dict.fromkeys(found))


def _where(word: str, layers: tuple[int | str, ...] | None) -> str:
    return "" if layers is None else f"{word} {', '.join(map(str, layers))}"
