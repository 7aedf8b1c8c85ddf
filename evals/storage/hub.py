"""Data sets of the Hugging Face Hub, or of a local folder in any form that ``datasets`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PREFIX = "hub:"


def is_hub(source: str) -> bool:
    return source.startswith(PREFIX)


def load_dataset(source: str, columns: Sequence[str]) -> tuple[Any, str]:
    """The rows of ``hub:NAME[:SPLIT[:COLUMN]]`` and the column that is meant.

    Args:
        columns: taken in this order where none is named.

    Raises:
        ValueError: ``datasets`` is not installed, or the set cannot be loaded or lacks the column.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{source!r} needs the package datasets: pip install 'guiders[metrics]'"
        ) from None
    name, split, column = [*source.removeprefix(PREFIX).split(":"), "", ""][:3]
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # it raises its own kinds for what is missing, offline or damaged
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{source!r} cannot be loaded ({reason})") from None
    wanted = [column] if column else list(columns)
    for each in wanted:
        if each in data.column_names:
            return data, each
    raise ValueError(
        f"{source!r} has the columns {', '.join(data.column_names)}; needed is "
        f"{' or '.join(wanted)}"
    )
