"""Give one object other methods for a while, without wrapping it.

The object's class is exchanged for a subclass of the same name. Unlike a wrapper or a forward hook
this survives model offload, compilation, ``isinstance`` and deep copies, and is undone exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MARK = "_guiders_original_class"


def swap(target: Any, methods: dict[str, Callable[..., Any]]) -> None:
    """Replace methods of ``target``. Each is called ``method(original, target, *args, **kwargs)``
    with the original, unbound method."""
    original = type(target)

    def bind(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        before = getattr(original, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return method(before, self, *args, **kwargs)

        return call

    members: dict[str, Any] = {name: bind(name, method) for name, method in methods.items()}
    members |= {MARK: original, "__module__": original.__module__, "__doc__": original.__doc__}
    object.__setattr__(target, "__class__", type(original.__name__, (original,), members))


def is_swapped(target: Any) -> bool:
    return MARK in vars(type(target))


def restore(target: Any) -> None:
    """Undo ``swap``."""
    if is_swapped(target):
        object.__setattr__(target, "__class__", vars(type(target))[MARK])
