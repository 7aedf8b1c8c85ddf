"""Prompt words that a small model has never seen."""

from __future__ import annotations

import difflib
import re
from pathlib import Path


def unknown_words(prompt: str, model_folder: str | Path) -> dict[str, list[str]]:
    """The words of ``prompt`` that a model does not know, with up to three near ones each.

    Empty for models without a ``words.txt``, which are taken to know every word.
    """
    path = Path(model_folder) / "words.txt"
    if not path.is_file():
        return {}
    known = path.read_text(encoding="utf-8", errors="replace").split()
    words = re.findall(r"[^\W_]+", prompt.lower())
    unknown = [word for word in dict.fromkeys(words) if word not in set(known)]
    return {word: difflib.get_close_matches(word, known, n=3, cutoff=0.6) for word in unknown}


def warning(unknown: dict[str, list[str]]) -> str:
    """``the model has never seen "hart" (near: heart, art)``."""
    parts = [
        f'"{word}"' + (f" (near: {', '.join(near)})" if near else "")
        for word, near in unknown.items()
    ]
    return "the model has never seen " + ", ".join(parts)
