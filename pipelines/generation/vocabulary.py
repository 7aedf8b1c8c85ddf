"""Prompt words that a small model has never seen."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any


def unknown_words(prompt: str, model_folder: str | Path) -> dict[str, list[str]]:
    """The words of ``prompt`` that a model does not know, with up to three near ones each.

    Empty for models without a ``words.txt``: they are assumed to know every word.
    """
    known = _known(model_folder)
    unknown = [word for word in _words(prompt) if word not in known] if known else []
    return {word: difflib.get_close_matches(word, known, n=3, cutoff=0.6) for word in unknown}


def says_nothing(prompt: str, model_folder: str | Path) -> bool:
    """Does ``prompt`` contain something, but no word that the model knows?"""
    known = _known(model_folder)
    return bool(known and prompt.strip()) and not any(word in known for word in _words(prompt))


def tokens_too_many(pipe: Any, prompt: str) -> tuple[int, int] | None:
    """How many tokens ``prompt`` has and how many are read, if every tokenizer cuts it off.

    ``None`` if one of the pipeline's tokenizers reads all of it.
    """
    parts = {name: part for name, part in pipe.components.items() if callable(part)}
    found = []
    for tokenizer in (part for name, part in parts.items() if name.startswith("tokenizer")):
        limit = getattr(tokenizer, "model_max_length", 0)
        count = len(tokenizer(prompt, verbose=False).input_ids)
        if not 0 < limit < count:
            return None
        found.append((count, limit))
    return max(found, key=lambda one: one[1]) if found else None


def start_of(text: str, most: int) -> str:
    """The beginning of a text, in one line of at most ``most`` letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _known(model_folder: str | Path) -> dict[str, None]:
    """The words of ``words.txt``, in order."""
    path = Path(model_folder) / "words.txt"
    if not path.is_file():
        return {}
    return dict.fromkeys(path.read_text(encoding="utf-8", errors="replace").split())


def _words(prompt: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"[^\W_]+", prompt.lower())))


def warning(unknown: dict[str, list[str]]) -> str:
    """``the model has never seen "hart" (near: heart, art)``."""
    parts = [
        f'"{word}"' + (f" (near: {', '.join(near)})" if near else "")
        for word, near in unknown.items()
    ]
    return "the model has never seen " + ", ".join(parts)
