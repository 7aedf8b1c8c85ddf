"""Files that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save
from torch import Tensor


def write(path: Path, fill: Callable[[IO[bytes]], Any], *, new: bool = False) -> None:
    """Write with ``fill(file)``; a kill at any moment leaves the old file or the new one.

    Args:
        new: never replace a file that is there.

    Raises:
        FileExistsError: there is one, and it was to be ``new``.
        OSError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            fill(file)
        if new:
            open(path, "xb").close()  # fails where the name is taken, unlike a renaming
        os.replace(part, path)
    except OSError as error:
        kind = FileExistsError if new and path.exists() else OSError
        reason = error.strerror or error
        raise kind(f"{path} cannot be written ({reason}); what is there is kept") from None
    finally:
        with contextlib.suppress(OSError):  # what was wrong is said already
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write(path, lambda file: file.write(text.encode()))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """A safetensors file with ``notes`` in its metadata, of the same bytes for the same content.

    (The library that writes them keeps notes in a table whose order is by chance.)
    """
    data = save(dict(tensors), dict(notes))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # numbers are at multiples of 8 bytes
    write(path, lambda file: file.write(len(text).to_bytes(8, "little") + text + data[start:]))


def write_torch(path: Path, value: Any) -> None:
    """What ``torch.load`` reads."""
    data = io.BytesIO()  # PyTorch hides what is wrong with a file that it writes itself
    torch.save(value, data)
    write(path, lambda file: file.write(data.getbuffer()))


def reason_of(error: Exception) -> str:
    """Why somebody's file cannot be read, in a line: what reading a damaged one raises is of many
    kinds, and of many words."""
    if isinstance(error, pickle.UnpicklingError):  # PyTorch says how to run the code after all
        return "a file of weights is damaged, or holds code, which is not run"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def sweep(folder: Path) -> None:
    """Remove what writers left that were killed; none may be at work in the folder."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)
