"""What a step does, counted: operations on tensors, bytes they move, functions of this library.

Counts do not depend on how busy a machine is. They are what a GPU launches, and what it reads and
writes, as far as nothing is compiled.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from guiders import guidance, pipelines, samplers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

LARGE = 10_000  # elements; smaller tensors are scales, masks of rows, scalar products
# Not views by their schema, and yet nothing is computed.
NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "lift_fresh"}

WRITING = {"copy_", "fill_", "zero_"}  # their first argument is not read


@dataclass
class Counts:
    """What was done.

    Attributes:
        operations: on large tensors. One on a part of the latents counts as that part, so that
            passes over them count the same whether they are made in one piece or in chunks.
        doubles: of them those that read or write float64.
        bytes: which they read and write, of large tensors and of parts of them; what a chunk makes
            for itself stays in the cache.
    """

    operations: float = 0.0
    doubles: float = 0.0
    bytes: float = 0.0

    def __sub__(self, other: Counts) -> Counts:
        return self + other / -1

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.operations + other.operations,
            self.doubles + other.doubles,
            self.bytes + other.bytes,
        )

    def __truediv__(self, number: float) -> Counts:
        return Counts(self.operations / number, self.doubles / number, self.bytes / number)


class Operations(TorchDispatchMode):
    """Counts operations on large tensors; views and allocations are none.

    Args:
        size: elements of the latents of all images.

    Attributes:
        counts: up to now.
        by_name: operations up to now, by name.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.counts, self.by_name = Counts(), Counter[str]()
        self._size = size

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if not function.is_view and name not in NOTHING:
            read = args[1:] if name in WRITING else args
            self._count(name, [*_tensors((read, kwargs)), *_tensors(result)])
        return result

    def _count(self, name: str, tensors: list[Tensor]) -> None:
        large = [tensor for tensor in tensors if is_large(tensor)]
        if not large:
            return
        share = min(1.0, max(tensor.numel() for tensor in large) / self._size)
        double = any(tensor.dtype == torch.float64 for tensor in large)
        moved = sum(tensor.numel() * tensor.element_size() for tensor in large)
        self.counts = self.counts + Counts(share, share * double, moved)
        self.by_name[name] += 1


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def is_large(tensor: Tensor) -> bool:
    """Has it more than ``LARGE`` elements, or is it a part of one that has, not only a number?"""
    if tensor.numel() > LARGE:
        return True
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.numel() > 1 and stored > LARGE


class Calls:
    """Counts calls of this library's functions, with ``sys.setprofile``.

    Comprehensions are not functions here, and a generator that goes on is a call.

    Attributes:
        files: calls up to now, by file.
    """

    def __init__(self) -> None:
        self.files = Counter[str]()

    def __enter__(self) -> Calls:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        named = not code.co_name.startswith("<") or code.co_name == "<lambda>"
        if event == "call" and named and (file := file_of(code.co_filename)):
            self.files[file] += 1


ROOTS = [Path(part.__file__).resolve().parent for part in (guidance, pipelines, samplers)]


@functools.cache
def file_of(filename: str) -> str:
    """The name of a file of this library's; "" of any other."""
    path = Path(filename).resolve()
    for root in ROOTS:
        if path.is_relative_to(root):
            return str(path.relative_to(root.parent))
    return ""


class Steps:
    """A pipeline's ``callback_on_step_end`` that reads something at both ends of every step.

    Args:
        read: what it reads, such as a clock.
        between: what is done from the end of a step to the start of the next, which is not part of
            either.
    """

    def __init__(self, read: Callable[[], Any], between: Callable[[], Any] = lambda: None) -> None:
        self._ends: list[Any] = []
        self._starts: list[Any] = []
        self._read, self._between = read, between

    def __call__(self, pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._ends.append(self._read())
        self._between()
        self._starts.append(self._read())
        return {}

    @property
    def spans(self) -> list[tuple[Any, Any]]:
        """What was read at the start and at the end of each step, but for the first."""
        return list(zip(self._starts, self._ends[1:], strict=False))

    def differences(self) -> list[Any]:
        """What each step added, but for the first."""
        return [end - start for start, end in self.spans]


def a_step(differences: Sequence[Counts]) -> Counts:
    """The mean of the steps in the middle, in eights: what is done at every eighth step counts.

    Raises:
        ValueError: there are fewer than 18 steps.
    """
    if len(differences) < 17:
        raise ValueError(f"expected 18 steps or more, got {len(differences) + 1}")
    middle = differences[8 : 8 * ((len(differences) - 1) // 8)]
    total = Counts()
    for one in middle:
        total += one
    return total / len(middle)
