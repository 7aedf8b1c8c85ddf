"""Prompts from a set that ships, a file, a folder, or a data set of the Hub."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .hub import is_hub, load_dataset

SETS = {
    "emoji": "the captions of the emoji model's training data, with their categories",
    "emoji-held-out": "those that no emoji model was trained on",
    "geneval": "GenEval's 553 prompts (Ghosh et al. 2023, arXiv:2310.11513; MIT)",
}
ELSEWHERE = {
    "dpg": (
        "DPG-Bench's 1065 prompts (Hu et al. 2024, arXiv:2403.05135; Apache-2.0) do not ship: "
        "give the folder dpg_bench/prompts of the ELLA repository, one text file for each"
    ),
}
TEXT, LABEL = ("prompt", "caption", "text"), ("label", "category", "tag", "class")


@dataclass(frozen=True)
class Prompts:
    """Texts, or class numbers as text, in order.

    Attributes:
        source: where they are from, as ``load_prompts`` takes it.
        labels: the class of each, "" where it is not known.
    """

    source: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> str:
        """The prompt of picture ``number``: the set is gone through again and again."""
        return self.texts[number % len(self.texts)]

    def label(self, number: int) -> str:
        """The class of picture ``number``."""
        return self.labels[number % len(self.labels)]

    @property
    def digest(self) -> str:
        """SHA-256 of all texts, 16 digits of it."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:16]


def load_prompts(source: str) -> Prompts:
    """Read a prompt set.

    Args:
        source: a name of ``SETS``; a ``.txt`` file (a prompt a line), a ``.csv``, ``.tsv`` or
            ``.jsonl`` file (column ``prompt``, ``caption`` or ``text``, and if there is one
            ``label`` or ``category``); a folder with a ``.txt`` file for each prompt; or
            ``hub:NAME[:SPLIT[:COLUMN]]``, a data set of the Hub.

    Raises:
        ValueError: it cannot be found or read, or holds no prompt.
    """
    if source in ELSEWHERE and not Path(source).exists():
        raise ValueError(f"prompts is {source!r}; {ELSEWHERE[source]}")
    path = Path(source)
    shipped = (
        [*(Path(__file__).parent / "prompt-sets").glob(f"{source}.t*")] if source in SETS else []
    )
    try:
        if shipped:
            rows = list(_file(shipped[0]))
        elif is_hub(source):
            data, column = load_dataset(source, TEXT)
            rows = [(str(row[column]), _label(row)) for row in data]
        elif path.is_dir():
            files = sorted(path.glob("*.txt"), key=_number)
            rows = [(" ".join(file.read_text(encoding="utf-8").split()), "") for file in files]
        elif path.is_file():
            rows = list(_file(path))
        else:
            allowed = f"one of {', '.join(SETS)}, a .txt, .csv, .tsv or .jsonl file, a folder of "
            raise ValueError(f"allowed is {allowed}.txt files, or hub:NAME")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"prompts is {source!r}; {error}") from None
    if not rows:
        raise ValueError(f"prompts is {source!r}, which holds no prompt; needed is at least one")
    texts, labels = zip(*rows, strict=True)
    return Prompts(source, texts, labels)


def _file(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix in (".csv", ".tsv"):
        rows = csv.DictReader(text.splitlines(), delimiter="," if path.suffix == ".csv" else "\t")
        yield from (_pair(row, path) for row in rows)
    elif path.suffix in (".jsonl", ".ndjson"):
        yield from (_pair(json.loads(line), path) for line in text.splitlines() if line.strip())
    else:
        yield from ((line.strip(), "") for line in text.splitlines() if line.strip())


def _pair(row: Any, path: Path) -> tuple[str, str]:
    for name in TEXT:
        if isinstance(row, dict) and row.get(name) is not None:
            return str(row[name]), _label(row)
    raise ValueError(f"{path.name} has no column {', '.join(TEXT[:-1])} or {TEXT[-1]}")


def _label(row: Any) -> str:
    return next((str(row[name]) for name in LABEL if row.get(name) is not None), "")


def _number(path: Path) -> tuple[int, str]:
    """1, 2, 10 in that order."""
    return (int(path.stem) if path.stem.isdigit() else -1, path.stem)
