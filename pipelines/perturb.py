"""Change a network for one prediction: what the perturbed references mean on real modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..guidance import Perturbation


@contextmanager
def changed(network: Any, change: Perturbation | None) -> Iterator[None]:
    """The network inside is as ``change`` says; afterwards it is as it was."""
    yield
