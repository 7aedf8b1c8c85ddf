"""Pickles of arrays, read without running anything.

A pickle can run anything when it is read. This one is read by a reader that knows arrays, numbers,
text, lists and dictionaries, and nothing else.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class _Dtype:
    """The word of a dtype: numpy's own is never made of what a file says."""

    def __init__(self, word: object, *_: object) -> None:
        self.word, self.order = str(word), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1]) if str(state[1]) in "<>" else "<"

    @property
    def plain(self) -> np.dtype:
        word = self.word.lstrip("<>=|")
        if word not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
            raise pickle.UnpicklingError(f"it has an array of {self.word}; allowed are numbers")
        return np.dtype(self.order + word)


class _Array:
    """An array of numbers, made of its bytes alone."""

    def __init__(self, *_: object) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        self.value = _numbers(data, dtype, shape, "F" if by_columns else "C")


def _numbers(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError("it has an array that is not of bytes and a dtype")
    sizes = tuple(int(size) for size in shape)
    flat = np.frombuffer(bytes(data), dtype.plain)
    return flat.reshape(sizes, order="F" if order == "F" else "C").copy()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_: object) -> _Array:
    made = _Array()
    made.value = _numbers(data, dtype, shape, order)
    return made


def _scalar(dtype: Any, data: Any) -> float:
    return float(_numbers(data, dtype, ())[()])


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    return str(text).encode(str(encoding))


class _Reader(pickle.Unpickler):
    """A reader of arrays and plain values that calls nothing else than the stand-ins above."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("numpy._core.numeric", "_frombuffer"): _frombuffer,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _latin,
    }

    def find_class(self, module: str, name: str) -> Any:
        place = module.replace("numpy.core", "numpy._core")
        if (place, name) in self.known:
            return self.known[place, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}; allowed are arrays and numbers")


def read(path: Path) -> Any:
    """What the pickle of a file holds; arrays are inside of dictionaries and lists.

    Raises:
        ValueError: it is damaged, or holds anything else than arrays and plain values.
    """
    try:
        with open(path, "rb") as file:
            return _opened(_Reader(file).load())
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"reference {path} cannot be read ({error})") from None


def _opened(value: Any) -> Any:
    """With arrays in place of the stand-ins that hold them."""
    if isinstance(value, dict):
        return {key: _opened(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_opened, value))
    return value.value if isinstance(value, _Array) else value
