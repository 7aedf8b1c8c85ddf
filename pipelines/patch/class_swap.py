"""Give one object other methods for a while, without wrapping it.

The object's class is exchanged for a subclass of the same name. Unlike a wrapper or a forward hook
this survives offloading, ``isinstance`` and ``inspect.signature``, and is undone exactly. Copies
and new instances made meanwhile are of the original class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

MARK = "_guiders_original_class"


def swap(target: Any, methods: dict[str, Callable[..., Any]]) -> None:
    """Replace methods of ``target``. Each is called ``method(original, target, *args, **kwargs)``
    with the original, unbound method."""
    original = type(target)

    def bind(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        before = getattr(original, name)
        if isinstance(target, nn.Module):
            before = _as_itself(before, original)

        @functools.wraps(before)  # Diffusers looks at signatures to decide what to pass
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return method(before, self, *args, **kwargs)

        return call

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        reduced: Any = object.__reduce_ex__(self, max(protocol, 2))
        _, (_, *arguments), *state = reduced
        return (_blank, (original, *arguments), *state)

    members: dict[str, Any] = {name: bind(name, method) for name, method in methods.items()}
    members |= {
        MARK: original,
        "__module__": original.__module__,
        "__doc__": original.__doc__,
        "__new__": new,
        "__reduce_ex__": reduce,
    }
    object.__setattr__(target, "__class__", type(original.__name__, (original,), members))


def _as_itself(method: Callable[..., Any], original: type) -> Callable[..., Any]:
    """A network's own method, called while the network has its own class.

    A network that was compiled in place is compiled again for each class that it is seen with.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        swapped = type(self)
        object.__setattr__(self, "__class__", original)
        try:
            return method(self, *args, **kwargs)
        finally:
            object.__setattr__(self, "__class__", swapped)

    return call


def _blank(kind: type, *arguments: Any) -> Any:
    """An instance as pickle and deepcopy begin it, before its state."""
    return kind.__new__(kind, *arguments)


def is_swapped(target: Any) -> bool:
    return MARK in vars(type(target))


def class_of(target: Any) -> type:
    """The class of an object as it is without ``swap``."""
    kind = type(target)
    while MARK in vars(kind):
        kind = vars(kind)[MARK]
    return kind


def restore(target: Any) -> None:
    """Undo ``swap``."""
    if is_swapped(target):
        object.__setattr__(target, "__class__", vars(type(target))[MARK])
