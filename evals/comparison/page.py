"""A comparison as one page that needs nothing else: tables, curves, pictures, no script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...guidance.engine.files import write_text
from ..report.charts import Line, Point, chart, mark
from ..report.html import PICTURES, document, safe, stacked, strip
from ..report.text import head, shown
from ..runs.registry import Wanted
from ..storage.prompts import load_prompts
from .compare import EFFECTIVE, Cell, Comparison, is_plain
from .tables import as_json, best, columns, effective, facts, matched_cells, title


def page(comparison: Comparison) -> str:
    """The page as HTML."""
    kinds = columns(comparison)
    parts = [
        f"<h1>{safe(title(comparison))}</h1>",
        f'<p class="faint">{safe(facts(comparison))}</p>',
        _key(comparison),
        "<h2>Over the scale</h2>",
        _charts(comparison, kinds, over_effective=False),
    ]
    if any(EFFECTIVE in cell.figures for cell in comparison.cells):
        parts += [
            "<h2>Over the effective scale</h2>",
            "<p>How far a method goes from the prediction without the prompt towards, and past, "
            "the one with it: 1 is that with the prompt (no guidance), and CFG's own scale is its "
            "effective scale. Methods that look better at the same number often only guide less; "
            "here that is taken out.</p>",
            _charts(comparison, kinds, over_effective=True),
        ]
    parts += ["<h2>All figures</h2>", _table(comparison, kinds)]
    if matched := matched_cells(comparison):
        parts += [
            "<h2>Against CFG at the same effective scale</h2>",
            "<p>The difference of each figure to CFG's, of the same prompts and seeds. Where the "
            "interval leaves out 0, chance is no explanation.</p>",
            _matched(matched, kinds),
        ]
    parts += [_strips(comparison)]
    data = json.dumps(as_json(comparison), indent=1)
    parts += [
        "<h2>How it was made</h2>",
        "<p>Every guider drew the same prompts from the same noise. Each run has a manifest with "
        "versions, hashes and settings, from which <code>guiders evaluate --from</code> repeats "
        "it.</p>",
        f"<details><summary>All of it as JSON</summary><pre>{safe(data)}</pre></details>",
    ]
    return document(title(comparison), parts)


def write_report(comparison: Comparison, out: Path) -> Path:
    """``report.html``."""
    path = out / "report.html"
    write_text(path, page(comparison))
    return path


def _key(comparison: Comparison) -> str:
    items = []
    for style, label in enumerate(comparison.labels):
        items.append(
            f'<span><svg viewBox="0 0 28 12"><polyline class="line s{style}" points="0,6 28,6"/>'
            f'<g class="dot s{style}">{mark(style, 14, 6)}</g></svg>{safe(label)}</span>'
        )
    return f'<div class="key">{"".join(items)}</div>'


def _charts(comparison: Comparison, kinds: Sequence[Wanted], over_effective: bool) -> str:
    panels = []
    for one in kinds:
        lines = []
        for style, label in enumerate(comparison.labels):
            cells = comparison.of(label)
            if over_effective and all(is_plain(cell.guider) for cell in cells):
                cells = with_matched(comparison, cells)
            points = []
            for cell in cells:
                if not {one.key, EFFECTIVE if over_effective else one.key} <= set(cell.figures):
                    continue
                estimate = cell.figures[one.key].estimate
                x = cell.figures[EFFECTIVE].value if over_effective else cell.scale
                note = f"scale {cell.scale:g}: {shown(one, estimate)}"
                points.append(Point(x, *estimate, note=note))
            if points:
                lines.append(Line(label, points, style))
        if lines:
            across = "effective scale" if over_effective else "scale"
            panels.append(
                f"<figure><figcaption>{safe(head(one))}</figcaption>"
                f"{chart(lines, across, one.metric.title)}</figure>"
            )
    return f'<div class="charts">{"".join(panels)}</div>'


def with_matched(comparison: Comparison, cells: Sequence[Cell]) -> list[Cell]:
    """Cells of plain CFG, and the CFG that was drawn at the effective scales of others."""
    scales = {cell.scale: cell for cell in cells}
    for other in matched_cells(comparison):
        assert other.matched_scale is not None
        twin = Cell("", other.matched_scale, other.guider, other.folder, other.matched)
        scales.setdefault(other.matched_scale, twin)
    return [scales[scale] for scale in sorted(scales)]


def _table(comparison: Comparison, kinds: Sequence[Wanted]) -> str:
    heads = "".join(f"<th>{safe(text)}</th>" for text in ["guider", "scale", "effective scale"])
    heads += "".join(f"<th>{safe(head(one))}</th>" for one in kinds)
    tops = {one.key: best(comparison, one) for one in kinds}
    rows, before = [], None
    for cell in comparison.cells:
        cells = f"<td>{safe(cell.label)}</td><td>{cell.scale:g}</td><td>{effective(cell)}</td>"
        for one in kinds:
            if one.key not in cell.figures:
                cells += "<td>-</td>"
                continue
            estimate = cell.figures[one.key].estimate
            kind = ' class="best"' if estimate.value == tops[one.key] else ""
            cells += f"<td{kind}>{stacked(shown(one, estimate))}</td>"
        kind = ' class="first"' if before not in (None, cell.label) else ""
        rows.append(f"<tr{kind}>{cells}</tr>")
        before = cell.label
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def _matched(cells: Sequence[Cell], kinds: Sequence[Wanted]) -> str:
    heads = "".join(f"<th>{safe(text)}</th>" for text in ["guider", "scale", "CFG scale"])
    heads += "".join(f"<th>{safe(head(one))}</th>" for one in kinds)
    rows = []
    for cell in cells:
        line = f"<td>{safe(cell.label)}</td><td>{cell.scale:g}</td><td>{cell.matched_scale:g}</td>"
        for one in kinds:
            difference = cell.against_matched(one.key)
            if difference is None:
                line += "<td>-</td>"
                continue
            sign = {"lower": -1, "higher": 1}.get(one.metric.better, 0)
            sure = min(sign * difference.low, sign * difference.high) > 0
            kind = ' class="best"' if sure else ""
            line += f"<td{kind}>{stacked(shown(one, difference, sign=True))}</td>"
        rows.append(f"<tr>{line}</tr>")
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def _strips(comparison: Comparison) -> str:
    """The first pictures of every cell; nothing where pictures were not kept."""
    plan = comparison.request.plan
    assert plan is not None
    if not comparison.request.keep:
        return ""
    prompts, count = load_prompts(plan.prompts), min(PICTURES, comparison.request.count)
    texts = [prompts[number] for number in range(count)]
    parts = ["<h2>The same pictures</h2>"]
    for label in comparison.labels:
        runs = [(f"{cell.scale:g}", cell.folder) for cell in comparison.of(label)]
        parts.append(f"<h3>{safe(label)}</h3>{strip(texts, runs)}")
    return "".join(parts)
