"""What a run takes of its machine: the device, threads of the CPU, other processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from ..guidance.engine.config import as_integer, reject

THREADS = 1  # they change the rounding, so that they are no matter of how many cores there are
PATIENCE = timedelta(hours=12)  # some wait for the first process, which may have hours to draw


def default_device() -> str:
    """The fastest there is."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Can a network be there? "" is the fastest there is.

    Raises:
        ValueError: it cannot.
    """
    try:
        if torch.zeros(1, device=device or default_device()).is_meta:
            raise RuntimeError("meta holds no numbers")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise reject("", "device", device, f"one that works here ({reason})") from None


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a GPU, or of this machine; 0 where they are not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """That many threads of PyTorch on the CPU meanwhile.

    Raises:
        ValueError: there cannot be so many.
    """
    count = as_integer("", "threads", count, low=1, high=1024)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def all_processes(cpu: bool) -> Any:
    """Accelerate's state of the processes that were started together; one by default."""
    from accelerate import PartialState

    with fixed_threads(torch.get_num_threads()):  # it may choose others
        return PartialState(cpu=cpu, timeout=PATIENCE)
