"""Where a benchmark's figures come from, and how they are written: a page and its data."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from guiders.evals.runs.manifest import versions


def origin(command: str) -> dict[str, Any]:
    """The command, the commit, versions and the machine."""
    machine = f"{platform.machine()} CPU"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    return {
        "command": command, "commit": commit(), "machine": machine,
        "versions": versions(),
    }  # fmt: skip


def commit() -> str:
    """That of the checkout, with a "+" where files differ from it; "unknown" without git."""
    here = Path(__file__).parent
    try:
        said = [
            subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said[0] + "+" * bool(said[1])


def told(origin: dict[str, Any]) -> str:
    """A sentence of it, in Markdown."""
    names = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    return f"`{origin['command']}` at commit {origin['commit']}, {origin['machine']}; {names}."


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def write(out: Path, lines: Sequence[str], data: Any) -> None:
    """The page ``out`` and its data beside it, as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
