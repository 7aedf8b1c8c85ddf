"""Write what checkers and editors read of the two faces, ``__init__.pyi``: ``make methods``.

The faces find methods where their files lie, which no checker can follow.
"""

from __future__ import annotations

import ast
from pathlib import Path

import guiders
from guiders import guidance

ROOT = Path(__file__).parent.parent
FACES = {"guidance": ROOT / "guidance" / "__init__.py", "api": ROOT / "api" / "__init__.py"}
HEAD = '"""Written by `make methods`: what is public, for checkers and editors."""\n\n'


def methods(inside: str) -> list[str]:
    """The imports of all methods, as seen from ``inside`` the package."""
    lines = []
    for name, kind in guidance.METHODS.items():
        place = kind.__module__.removeprefix("guiders.").removeprefix(inside)
        lines.append(f"from .{place} import {name} as {name}")
    return lines


def imported(face: Path) -> list[str]:
    """What a face imports by name."""
    lines = []
    for node in ast.parse(face.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            where = "." + (node.module or "")
            names = [alias.name for alias in node.names if alias.asname is None]
            lines += [f"from {where} import {name} as {name}" for name in names]
    return lines


def stubs() -> dict[Path, str]:
    """The text of each stub, by its path."""
    later = [
        f"from .{part} import {name} as {name}" for name, part in vars(guiders)["_LATER"].items()
    ]
    texts = {
        "guidance": [
            *imported(FACES["guidance"]), *methods("guidance."), "",
            "ROOMS: tuple[str, ...]", "METHODS: dict[str, type[Config]]",
        ],
        "api": [*imported(FACES["api"]), *methods(""), *later, "", "__version__: str"],
    }  # fmt: skip
    return {
        FACES[name].with_suffix(".pyi"): HEAD + "\n".join(lines) + "\n"
        for name, lines in texts.items()
    }


if __name__ == "__main__":
    for path, text in stubs().items():
        path.write_text(text)
