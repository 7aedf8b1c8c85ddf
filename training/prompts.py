"""The captions of the emoji data as prompt sets that ship with the package: no pictures needed.

Writes ``evals/storage/prompt-sets/emoji.tsv``, the (name, style) pairs of the training data, and
``emoji-held-out.tsv``, those that no model was trained on; in a fixed random order, so that the
first N are a sample, with the category of each for the classifier.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from data import CATEGORIES, PACKAGES, fetch, is_held_out, is_skin_tone, read_package

PROMPTS = Path(__file__).parent.parent / "evals" / "storage" / "prompt-sets"


def pairs(downloads: Path) -> dict[tuple[str, str], str]:
    """The category of every (name, style), "" where the data say none."""
    sets = {p: read_package(fetch(p, v, downloads)) for p, (v, _) in PACKAGES.items()}
    known: dict[str, str] = {}
    for _, categories in sets.values():
        for name, category in categories.items():
            known.setdefault(name, category)
    everything = {name for icons, _ in sets.values() for name in icons["icons"]}
    found: dict[tuple[str, str], str] = {}
    for package, (icons, categories) in sets.items():
        for icon in icons["icons"]:
            if is_skin_tone(icon, everything):
                continue
            flag = icon.startswith("flag-for-")
            name = icon.removeprefix("flag-for-").replace("-", " ")
            category = "flags" if flag else categories.get(icon, known.get(icon, ""))
            found.setdefault((name, PACKAGES[package][1]), category)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--downloads", type=Path, default=Path("build/downloads"))
    found = pairs(parser.parse_args().downloads)
    assert set(found.values()) <= set(CATEGORIES.values())
    order = sorted(found)
    random.Random(0).shuffle(order)
    for held_out, file in ((False, "emoji.tsv"), (True, "emoji-held-out.tsv")):
        lines = ["prompt\tlabel"]
        for name, style in order:
            if is_held_out(name, style) == held_out:
                lines.append(f"{name}, {style} style\t{found[name, style]}")
        (PROMPTS / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{file}: {len(lines) - 1} prompts")


if __name__ == "__main__":
    main()
