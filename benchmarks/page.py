"""A page of tables that is written while it grows, within the time there is for it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from counting import file_of
from writing import table, told, write

T = TypeVar("T")


@dataclass
class Page:
    """The page, and the time that is left for it."""

    out: Path
    source: dict[str, Any]
    seconds: float
    started: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    data: list[dict[str, Any]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def section(self, title: str, columns: Sequence[str], note: str = "") -> None:
        """A new table."""
        self.columns = list(columns)
        self.lines += ["", f"## {title}", "", *([note, ""] if note else [])]
        self.lines += table(self.columns, [])
        self.data.append({"section": title, "rows": []})
        self.save()

    def row(self, *cells: Any) -> None:
        self.lines.append("| " + " | ".join(map(str, cells)) + " |")
        self.data[-1]["rows"].append(dict(zip(self.columns, map(str, cells), strict=True)))
        print(self.data[-1]["section"], *cells, sep=" | ", flush=True)
        self.save()

    def skip(self, what: str, why: str) -> None:
        self.left_out.append(f"{what}: {why}")
        print("left out", what, why, sep=" | ", flush=True)
        self.save()

    def attempt(self, what: str, call: Callable[[], T]) -> T | None:
        """What ``call`` gives; ``None`` if it raised, and a line that says what and where."""
        try:
            return call()
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            places = [f"{file_of(f.filename)}:{f.lineno}" for f in frames if file_of(f.filename)]
            said = (str(error).strip().splitlines() or [""])[0][:200]
            place = f" ({places[-1]})" if places else ""
            self.skip(what, f"**{type(error).__name__}** {said}{place}")
            return None

    def has(self, seconds: float, what: str) -> bool:
        """Is there so much time? It is left out if not."""
        enough = self.left >= seconds
        if not enough:
            self.skip(what, f"{max(0, self.left):.0f} s were left, {seconds:g} are wanted")
        return enough

    def save(self) -> None:
        lines = [f"# Guiders on {self.source['machine']}", "", told(self.source), *self.lines]
        lines += [
            "",
            "## Left out, or failed",
            "",
            *([f"- {line}" for line in self.left_out] or ["Nothing."]),
        ]
        spent = {"seconds": round(time.monotonic() - self.started, 1)}
        left = {"sections": self.data, "left out": self.left_out}
        write(self.out, lines, {**self.source, **spent, **left})
