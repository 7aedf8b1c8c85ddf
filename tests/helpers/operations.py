"""Counts what is done to large tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LARGE = 10_000  # elements


class Operations(TorchDispatchMode):
    """Inside, every operation that reads or writes a large tensor is counted; views are none.

    Attributes:
        names: of the operations, in order.
        bytes: read and written by them, each tensor once for each operation.
        wide: those that made a large tensor of float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.bytes = 0
        self.wide: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not view and any(t.numel() > LARGE for t in (*made, *given)):
            self.names.append(func._schema.name)
            tensors = {id(t): t.numel() * t.element_size() for t in (*made, *given)}
            self.bytes += sum(tensors.values())
            if any(t.numel() > LARGE and t.dtype == torch.float64 for t in made):
                self.wide.append(func._schema.name)
        return result
