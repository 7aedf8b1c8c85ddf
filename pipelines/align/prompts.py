"""Prompts to train with, and others to watch the training with."""

from __future__ import annotations

import random
from pathlib import Path

HERE = Path(__file__).parent / "prompts"


def builtin() -> list[str]:
    """The names of the lists that come with the library."""
    return sorted(path.stem for path in HERE.glob("*.txt") if "-unseen" not in path.stem)


def read(source: str) -> list[str]:
    """The lines of a file, or of a list that comes with the library; empty lines are left out.

    Raises:
        ValueError: there is no such file or list, or it has no prompt.
    """
    path = HERE / f"{source}.txt" if (HERE / f"{source}.txt").is_file() else Path(source)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"prompts are {source!r}; allowed is a text file with a prompt in each line, or one of "
            f"{', '.join(builtin())} ({error})"
        ) from None
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise ValueError(f"prompts are {source!r}, which is empty; allowed is at least one line")
    return prompts


def split_off(prompts: list[str], seed: int = 0, share: float = 0.2) -> tuple[list[str], list[str]]:
    """Prompts to train with, and a share of them, at random, that is left unseen.

    Fewer than five are too few to share: they are in both.
    """
    if len(prompts) < 5:
        return prompts, prompts
    order = list(prompts)
    random.Random(seed).shuffle(order)
    count = round(share * len(order))
    unseen = set(order[:count])
    return [p for p in prompts if p not in unseen], order[:count]
