"""Write what ``report.py`` measured into the model cards and the README.

A table stands there between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``, where NAME
is one of ``TABLES``; nothing in between is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PAGES = [Path("README.md"), *sorted(Path("models").glob("*/README.md"))]
BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
Report = dict[str, Any]


def number(value: Sequence[float], digits: int = 3, percent: bool = False) -> str:
    """``0.418 (0.388 to 0.450)`` or ``73 % (69 to 77)`` of value, low and high."""
    one, low, high = (100 * v if percent else v for v in value)
    digits = 0 if percent else digits
    unit = " %" if percent else ""
    return f"{one:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def retrieval(report: Report) -> str:
    part = report["retrieval"]
    rows = []
    for label in ("training captions", "held-out pairs"):
        found = part[label]
        cells = [number(found[of][f"top {k}"], percent=True) for of in ("drawn", "real")
                 for k in (1, 5)]  # fmt: skip
        rows.append([label, *cells])
    head = ["", "first", "among five", "real pictures, first", "among five"]
    new = part["held-out pairs"]["nearer to the unseen target than to any training picture"]
    return table(head, rows) + (
        f"\nOf the held-out pairs' pictures {number(new, percent=True)} are nearer, to the judge, "
        "to the unseen picture than to every training picture, the same name in other styles "
        "included.\n"
    )


def names(report: Report) -> str:
    part, rows = report["names"], []
    for label in ("trained", "held out"):
        for kind in ("drawn", "autoencoded"):
            found = part[f"{label}, {kind}"]
            cells = [number(found[f"top {k}"], percent=True) for k in (1, 5)]
            rows.append([f"{label}, {kind}", str(found["names"]), *cells])
    return table(["", "names", "the nearest", "among five names"], rows)


def guidance(report: Report) -> str:
    keys = ("diversity", "alignment")
    found = report["guidance"]["table"] | {
        "CFG 8 minus CFG 1, paired": report["guidance"]["CFG 8 minus unguided"]
    }
    rows = [[name, *(number(row[key]) for key in keys)] for name, row in found.items()]
    return table(["", *keys], rows)


def colour(report: Report) -> str:
    part = report["colour"]
    keys = ["saturation", "saturation of ink", "contrast", "clipped", "clipped of ink"]
    rows = []
    for name, row in part["table"].items():
        spent = f"{row['evaluations']:.1f}" if row["evaluations"] else ""
        rows.append([name, *(number(row[key]) for key in keys), spent])
    for name in part:
        if " minus " in name:
            rows.append([f"{name}, paired", *(number(part[name][key]) for key in keys), ""])
    return table(["", *keys, "evaluations"], rows)


def frechet(report: Report) -> str:
    found = report["frechet"]["table"]
    rows = [
        [name, number(row["emoji-clip"], 2), number(row["emoji-judge"], 2)]
        for name, row in found.items()
    ]
    return table(["", "emoji-clip", "emoji-judge"], rows)


def speed(report: Report) -> str:
    part = report["speed"]
    return (
        f"Four pictures of 30 steps at CFG 4 take {part['seconds']:.1f} s on {part['threads']} CPU "
        "cores (float32).\n"
    )


def autoencoder(report: Report) -> str:
    error = report["networks"]["autoencoder, L1 on held-out pictures"]
    return f"Mean L1 error of the autoencoder on held-out pictures: {error:.4f} (in [-1, 1]).\n"


def training(report: Report) -> str:
    """From the logs of the runs that made the weights, the evaluation whose weights were kept: the
    text-to-image model's last, of the others that of the lowest loss on held-out pairs."""
    rows = []
    for name in ("vae", "emoji", "emoji-weak"):
        log = (Path("training/logs") / f"{name}.jsonl").read_text().splitlines()
        rows_of_log = [json.loads(line) for line in log]
        kept = min(rows_of_log, key=lambda row: row["held out"])
        kept = rows_of_log[-1] if name == "emoji" else kept
        pictures, minutes = f"{kept['pictures']:,}", f"{kept['seconds'] / 60:.0f}"
        rows.append([name, pictures, minutes, f"{kept['trained']:.4f}", f"{kept['held out']:.4f}"])
    head = ["run", "pictures seen", "minutes", "loss on trained pairs", "on held-out pairs"]
    return table(head, rows)


def judge(report: Report, name: str) -> str:
    found = report["networks"][name]
    return table(
        ["on held-out pictures of 64 x 64", ""],
        [[key, number(value, percent=True)] for key, value in found.items()],
    )


def classifier(report: Report) -> str:
    found = report["networks"]["classifier"]
    return table(
        ["on held-out pictures of 64 x 64", ""],
        [
            ["accuracy", number(found["held-out accuracy"], percent=True)],
            ["expected calibration error, ten bins", f"{found['expected calibration error']:.3f}"],
        ],
    )


def readme(report: Report) -> str:
    """The few figures that say what guidance does."""
    colours, choice = report["colour"]["table"], report["guidance"]["table"]
    distances = report.get("frechet", {"table": {}})["table"]
    rows = []
    for name in ("real pictures", "CFG 1", "CFG 2", "CFG 4", "CFG 8", "APG 8", "autoguidance 2"):
        one = choice.get(name, {})
        cells = [f"{one[key][0]:.3f}" if key in one else "" for key in ("alignment", "diversity")]
        far = distances.get("unguided" if name == "CFG 1" else name)
        cells.append(f"{far['emoji-judge'][0]:.1f}" if far else "")
        known = name.replace("G ", "G scale ")  # as a guider is written out, before its settings
        ink = next((row for guider, row in colours.items() if guider.split(",")[0] == known), None)
        cells += [f"{ink[key][0]:.3f}" if ink else "" for key in
                  ("saturation of ink", "clipped of ink")]  # fmt: skip
        if any(cells):
            rows.append(["unguided" if name == "CFG 1" else name, *cells])
    head = ["", "alignment", "diversity", "Frechet distance", "saturation", "clipped"]
    measured = [k for k in range(len(head)) if not k or any(row[k] for row in rows)]
    return table([head[k] for k in measured], [[row[k] for k in measured] for row in rows])


TABLES: dict[str, Callable[[Report], str]] = {
    "retrieval": retrieval, "names": names, "guidance": guidance, "colour": colour,
    "frechet": frechet, "speed": speed, "autoencoder": autoencoder, "readme": readme,
    "training": training,
    "emoji-clip": lambda report: judge(report, "emoji-clip"),
    "emoji-judge": lambda report: judge(report, "emoji-judge"), "classifier": classifier,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, default=Path("build/report/report.json"))
    report = json.loads(parser.parse_args().report.read_text())
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(
            BLOCK.sub(lambda m: m[1] + TABLES[m[2]](report) + m[3], text), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
