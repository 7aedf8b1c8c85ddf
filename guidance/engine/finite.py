"""Numbers that are not finite stop a run, without a device being waited for."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .levels import Step
from .tensors import wide


class NotFiniteError(RuntimeError):
    """A prediction has NaN or infinite numbers."""


def row_sums(tensor: Tensor) -> Tensor:
    """The sum of each row of (B, ...), (B,), which is finite if all of it is."""
    if not tensor.dtype.itemsize >= 4:
        tensor = tensor.detach().sum(dim=-1, dtype=torch.float32)
    else:
        tensor = tensor.detach().sum(dim=-1)
    return wide(tensor.flatten(1).sum(dim=1) if tensor.dim() > 1 else tensor)


class Arriving:
    """Numbers on their way from a device to the host, which goes on meanwhile.

    Attributes:
        values: the numbers, where they are now.
    """

    def __init__(self, values: Tensor) -> None:
        self.values, self._event = values.detach(), None
        if values.device.type == "cuda":
            there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.values = there.copy_(self.values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def arrived(self) -> bool:
        """Can they be read without waiting?"""
        if self._event is not None:
            return bool(self._event.query())
        return self.values.device.type == "cpu"

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


def _unknown() -> str:
    return "a prediction"


class Checks:
    """What is still to be looked at: sums of each evaluation's predictions."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Step, Arriving]] = []
        self._blame: Callable[[], str] = _unknown
        self._blamed: Step | None = None

    def add(self, step: Step, sums: Tensor, blame: Callable[[], str]) -> None:
        """Remember the sums (B,) of an evaluation.

        Args:
            blame: says what is not finite; it is asked before the next one is added, or never.
        """
        self._waiting.append((step, Arriving(sums)))
        self._blame, self._blamed = blame, step

    def look(self, wait: bool = False) -> None:
        """Look at those that have arrived, or at all.

        Raises:
            NotFiniteError: a number is not finite; it names the step and what gave it.
        """
        here = [check for check in self._waiting if wait or check[1].arrived]
        self._waiting = [check for check in self._waiting if check not in here]
        if not here:
            return
        here[-1][1].wait()
        rows = torch.stack([sums.values for _, sums in here]).tolist()
        for (step, _), sums in zip(here, rows, strict=True):
            if not all(map(math.isfinite, sums)):
                what = (self._blame if step is self._blamed else _unknown)()
                raise NotFiniteError(
                    f"{what} at step {step.index} (sigma {step.sigma:.4g}) has NaN or infinite "
                    "numbers; the run is stopped"
                )
        if not self._waiting:
            self._blame, self._blamed = _unknown, None
