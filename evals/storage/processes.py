"""One program, any number of processes: plain ``python``, ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch

from ...pipelines.machine import all_processes, default_device


class Processes:
    """The processes of this run, of which this one is number ``rank`` of ``count``.

    Args:
        device: the device that this process draws on; "" is the fastest there is, one GPU for each
            process of a machine.
    """

    def __init__(self, device: str = "") -> None:
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.device = device or default_device()
        if self.count > 1:
            state = all_processes(cpu=device == "cpu" or not torch.cuda.is_available())
            atexit.register(state.destroy_process_group)
            self.count, self.rank = state.num_processes, state.process_index
            self.device = device or str(state.device)

    @property
    def first(self) -> bool:
        """Is this the process that writes what there is one of?"""
        return self.rank == 0

    def mine(self, batches: int) -> range:
        """The batches that this process owns: b with b modulo ``count`` equal to ``rank``."""
        return range(self.rank, batches, self.count)

    def gather(self, item: Any) -> list[Any]:
        """The items of all processes, in their order, at the first one; ``[]`` at the others."""
        if self.count == 1:
            return [item]
        items: list[Any] = [None] * self.count
        torch.distributed.gather_object(item, items if self.first else None)
        return items if self.first else []

    def share(self, item: Any) -> Any:
        """The first process's item, at all of them."""
        if self.count == 1:
            return item
        items = [item]
        torch.distributed.broadcast_object_list(items, src=0)
        return items[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()
