"""A comparison as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ...guidance.engine.files import write_text
from ..report.text import head, run_facts, shown, table_row
from ..runs.manifest import versions
from ..runs.registry import Wanted
from ..storage.files import write_json
from .compare import EFFECTIVE, Cell, Comparison


def columns(comparison: Comparison) -> list[Wanted]:
    """The metrics that any cell has, but for the effective scale, which has a place of its own."""
    return [
        one
        for one in comparison.wanted
        if one.name != EFFECTIVE and any(one.key in cell.figures for cell in comparison.cells)
    ]


def effective(cell: Cell) -> str:
    return f"{cell.figures[EFFECTIVE].value:.2f}" if EFFECTIVE in cell.figures else ""


def matched_cells(comparison: Comparison) -> list[Cell]:
    return [cell for cell in comparison.cells if cell.matched]


def best(comparison: Comparison, one: Wanted) -> float | None:
    """The best value of a column, where better is meant."""
    values = [c.figures[one.key].value for c in comparison.cells if one.key in c.figures]
    if not values or not one.metric.better:
        return None
    return min(values) if one.metric.better == "lower" else max(values)


def markdown(comparison: Comparison) -> str:
    """Two tables: every cell, and every method against CFG at the same effective scale."""
    kinds = columns(comparison)
    lines = [
        f"# {title(comparison)}",
        "",
        facts(comparison),
        "",
        table_row(["guider", "scale", "effective", *map(head, kinds)]),
        table_row(["---"] * (len(kinds) + 3)),
    ]
    for cell in comparison.cells:
        values = [_value(cell, one) for one in kinds]
        lines.append(table_row([cell.label, f"{cell.scale:g}", effective(cell), *values]))
    if matched := matched_cells(comparison):
        lines += [
            "",
            "## Against CFG at the same effective scale",
            "",
            "Differences to CFG, of the same prompts and seeds.",
            "",
            table_row(["guider", "scale", "CFG scale", *map(head, kinds)]),
            table_row(["---"] * (len(kinds) + 3)),
        ]
        for cell in matched:
            values = [_difference(cell, one) for one in kinds]
            lines.append(
                table_row([cell.label, f"{cell.scale:g}", f"{cell.matched_scale:g}", *values])
            )
    return "\n".join(lines) + "\n"


def title(comparison: Comparison) -> str:
    plan = comparison.request.plan
    assert plan is not None
    return f"{' and '.join(comparison.labels)} on {plan.settings.model}"


def facts(comparison: Comparison) -> str:
    """What all cells share, in a line."""
    parts = run_facts(comparison.request, comparison.model)
    if comparison.request.reference:
        parts.append(f"real pictures: {comparison.request.reference}")
    return "; ".join(parts) + "; 95 % bootstrap intervals."


def _value(cell: Cell, one: Wanted) -> str:
    return shown(one, cell.figures[one.key].estimate) if one.key in cell.figures else "-"


def _difference(cell: Cell, one: Wanted) -> str:
    difference = cell.against_matched(one.key)
    return shown(one, difference, sign=True) if difference else "-"


def as_csv(comparison: Comparison) -> str:
    """A row for each cell; of every metric the value and the ends of its interval."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    kinds = comparison.wanted
    names = [f"{one.key}{end}" for one in kinds for end in ("", " low", " high")]
    out.writerow(["guider", "scale", *names])
    for cell in comparison.cells:
        values: list[Any] = []
        for one in kinds:
            estimate = cell.figures[one.key].estimate if one.key in cell.figures else [""] * 3
            values += ["" if value != value else value for value in estimate]
        out.writerow([cell.label, cell.scale, *values])
    return text.getvalue()


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, with what it depends on."""
    rows = []
    for cell in comparison.cells:
        row: dict[str, Any] = {
            "guider": cell.label,
            "scale": cell.scale,
            "settings": cell.guider.to_dict(),
            "manifest": f"runs/{cell.folder.name}/manifest.json",
            "figures": {key: figure.to_dict() for key, figure in cell.figures.items()},
        }
        if cell.matched:
            row["cfg_at_the_same_effective_scale"] = {
                "scale": cell.matched_scale,
                "figures": {key: figure.to_dict() for key, figure in cell.matched.items()},
            }
        rows.append(row)
    return {
        "request": comparison.request.to_dict(),
        "model": comparison.model,
        "versions": versions(),
        "rows": rows,
    }


def write_tables(comparison: Comparison, out: Path) -> None:
    """``table.md``, ``table.csv`` and ``results.json``."""
    for name, text in (("table.md", markdown(comparison)), ("table.csv", as_csv(comparison))):
        write_text(out / name, text)
    write_json(out / "results.json", as_json(comparison))
