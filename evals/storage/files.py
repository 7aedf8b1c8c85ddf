"""What an evaluation keeps: JSON, arrays and pictures, each whole or not there."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...guidance.engine.files import write, write_text

BROKEN = (OSError, ValueError, SyntaxError, EOFError, KeyError, zipfile.BadZipFile)


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ValueError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None


def claim(folder: Path, facts: dict[str, Any]) -> None:
    """Make ``folder`` that of these facts, or see that it is.

    Raises:
        ValueError: it is that of others.
    """
    path = folder / "plan.json"
    if not path.exists():
        return write_json(path, facts)
    there = read_json(path)
    for name in facts | there:
        if there.get(name) != facts.get(name):
            raise ValueError(
                f"out is {str(folder)!r}, where {name} is {there.get(name)!r}, and not "
                f"{facts.get(name)!r}; allowed is another folder, or the same settings"
            )
    return None


def write_array(path: Path, array: np.ndarray) -> None:
    write(path, lambda file: np.savez(file, rows=array))


def read_array(path: Path, rows: int) -> np.ndarray | None:
    """What ``write_array`` wrote; ``None`` where it is not there, damaged or of other length."""
    try:
        with np.load(path) as data:
            array = data["rows"]
    except BROKEN:
        return None
    return array if len(array) == rows else None


def is_whole(path: Path) -> bool:
    """Is it a PNG whose chunks are all there and unharmed?"""
    try:
        with Image.open(path) as picture:
            picture.verify()
    except BROKEN:
        return False
    return True


def read_picture(path: Path) -> Image.Image:
    """A picture in RGB.

    Raises:
        ValueError: it cannot be read, or only a part of it is there.
    """
    try:
        with Image.open(path) as picture:
            picture.verify()  # a PNG is decoded without its last chunks, too
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {path} cannot be read ({error})") from None
