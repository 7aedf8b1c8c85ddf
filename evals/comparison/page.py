"""A comparison as one page that needs nothing else: tables, curves, pictures, no script."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...guidance.engine.files import write_text
from ..report.charts import Line, Point, chart, mark
from .compare import EFFECTIVE, Cell, Comparison, is_plain
from ..storage.files import read_picture
from ..runs.registry import Wanted
from ..storage.prompts import load_prompts
from .tables import (
    as_json,
    best,
    columns,
    effective,
    facts,
    head,
    matched_cells,
    shown,
    title,
)

PICTURES = 10  # in each strip
SIDE = 128  # pixels, at most, of a picture in the page

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #59636e; --paper: #ffffff;
  --panel: #f6f8fa; --edge: #d1d9e0; --good: #1a7f37;
  --s0: #0969da; --s1: #bc4c00; --s2: #8250df; --s3: #1a7f37; --s4: #bf3989; --s5: #7d4e00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9198a1; --paper: #0d1117;
  --panel: #151b23; --edge: #3d444d; --good: #3fb950;
  --s0: #58a6ff; --s1: #ffa657; --s2: #bc8cff; --s3: #56d364; --s4: #ff7bbf; --s5: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 19px; margin: 40px 0 8px; }
p { max-width: 76ch; margin: 6px 0 12px; }
.faint { color: var(--faint); }
.key { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 14px 0; }
.key span { display: inline-flex; align-items: center; gap: 7px; }
.key svg { width: 28px; height: 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px 5px 0; text-align: right; border-bottom: 1px solid var(--edge);
  white-space: nowrap; vertical-align: baseline; }
th { font-weight: 600; color: var(--faint); font-size: 13px; vertical-align: bottom;
  white-space: normal; min-width: 84px; }
th:first-child, td:first-child { text-align: left; }
td small { display: block; color: var(--faint); font-size: 11px; font-weight: 400; }
td.best { color: var(--good); font-weight: 600; }
tr.first td { border-top: 2px solid var(--edge); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 16px; }
figure { margin: 0; background: var(--panel); border: 1px solid var(--edge); border-radius: 8px;
  padding: 10px 10px 6px; }
figcaption { font-weight: 600; font-size: 14px; padding: 0 4px 4px; }
figure svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--edge); stroke-width: 1; }
.tick { fill: var(--faint); font-size: 11px; }
.axis { fill: var(--faint); font-size: 12px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.band { stroke: none; opacity: .16; }
SERIES
.strip td { padding: 3px 4px 3px 0; border: 0; text-align: center; vertical-align: middle; }
.strip td:first-child { padding-right: 12px; text-align: right; color: var(--faint); }
.strip th { min-width: 0; width: 68px; font-size: 11px; font-weight: 400; line-height: 1.2;
  padding: 0 4px 4px 0; text-align: center; border: 0; }
.strip img { width: 64px; height: 64px; object-fit: contain; display: block; border-radius: 4px;
  background: #fff; }
.strip img.small { image-rendering: pixelated; }
details { margin-top: 12px; } summary { cursor: pointer; }
pre { background: var(--panel); border: 1px solid var(--edge); border-radius: 8px; padding: 12px;
  overflow-x: auto; font-size: 12px; }
"""
SERIES = "\n".join(
    f".line.s{i} {{ stroke: var(--s{i % 6}); stroke-dasharray: {dash}; }} "
    f".band.s{i}, .dot.s{i} {{ fill: var(--s{i % 6}); }}"
    for i, dash in enumerate(["none", "7 3", "2 3", "9 3 2 3", "4 4", "12 4"] * 4)
)


def page(comparison: Comparison) -> str:
    """The page as HTML."""
    kinds = columns(comparison)
    parts = [
        f"<h1>{_safe(title(comparison))}</h1>",
        f'<p class="faint">{_safe(facts(comparison))}</p>',
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
        f"<details><summary>All of it as JSON</summary><pre>{_safe(data)}</pre></details>",
    ]
    return document(title(comparison), parts)


def document(name: str, parts: Sequence[str]) -> str:
    """A page in the style of all reports, of parts of HTML."""
    style = STYLE.replace("SERIES", SERIES)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{_safe(name)}</title><style>{style}</style></head><body><main>"
        + "\n".join(parts)
        + "</main></body></html>\n"
    )


def write_report(comparison: Comparison, out: Path) -> Path:
    """``report.html``."""
    path = out / "report.html"
    write_text(path, page(comparison))
    return path


def _safe(text: str) -> str:
    return html.escape(text)


def _key(comparison: Comparison) -> str:
    items = []
    for style, label in enumerate(comparison.labels):
        items.append(
            f'<span><svg viewBox="0 0 28 12"><polyline class="line s{style}" points="0,6 28,6"/>'
            f'<g class="dot s{style}">{mark(style, 14, 6)}</g></svg>{_safe(label)}</span>'
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
                f"<figure><figcaption>{_safe(head(one))}</figcaption>"
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
    heads = "".join(f"<th>{_safe(text)}</th>" for text in ["guider", "scale", "effective scale"])
    heads += "".join(f"<th>{_safe(head(one))}</th>" for one in kinds)
    tops = {one.key: best(comparison, one) for one in kinds}
    rows, before = [], None
    for cell in comparison.cells:
        cells = f"<td>{_safe(cell.label)}</td><td>{cell.scale:g}</td><td>{effective(cell)}</td>"
        for one in kinds:
            if one.key not in cell.figures:
                cells += "<td>-</td>"
                continue
            estimate = cell.figures[one.key].estimate
            kind = ' class="best"' if estimate.value == tops[one.key] else ""
            cells += f"<td{kind}>{_stacked(shown(one, estimate))}</td>"
        kind = ' class="first"' if before not in (None, cell.label) else ""
        rows.append(f"<tr{kind}>{cells}</tr>")
        before = cell.label
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def _matched(cells: Sequence[Cell], kinds: Sequence[Wanted]) -> str:
    heads = "".join(f"<th>{_safe(text)}</th>" for text in ["guider", "scale", "CFG scale"])
    heads += "".join(f"<th>{_safe(head(one))}</th>" for one in kinds)
    rows = []
    for cell in cells:
        line = f"<td>{_safe(cell.label)}</td><td>{cell.scale:g}</td><td>{cell.matched_scale:g}</td>"
        for one in kinds:
            difference = cell.against_matched(one.key)
            if difference is None:
                line += "<td>-</td>"
                continue
            sign = {"lower": -1, "higher": 1}.get(one.metric.better, 0)
            sure = min(sign * difference.low, sign * difference.high) > 0
            kind = ' class="best"' if sure else ""
            line += f"<td{kind}>{_stacked(shown(one, difference, sign=True))}</td>"
        rows.append(f"<tr>{line}</tr>")
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def _stacked(text: str) -> str:
    """The interval below the value."""
    value, _, interval = text.partition(" (")
    return f"{value}<small>{interval.rstrip(')')}</small>" if interval else value


def _strips(comparison: Comparison) -> str:
    """The first pictures of every cell; nothing where pictures were not kept."""
    plan = comparison.request.plan
    assert plan is not None
    if not comparison.request.keep:
        return ""
    prompts, count = load_prompts(plan.prompts), min(PICTURES, comparison.request.count)
    texts = [prompts[number] for number in range(count)]
    heads = "<th></th>" + "".join(f"<th>{_safe(text[:60])}</th>" for text in texts)
    parts = ["<h2>The same pictures</h2>"]
    for label in comparison.labels:
        rows = []
        for cell in comparison.of(label):
            images = "".join(
                f"<td>{image(cell.folder / 'pictures' / f'{number:06d}.png', text)}</td>"
                for number, text in enumerate(texts)
            )
            rows.append(f"<tr><td>{cell.scale:g}</td>{images}</tr>")
        parts.append(
            f'<h3>{_safe(label)}</h3><div class="scroll"><table class="strip"><tr>{heads}</tr>'
            f"{''.join(rows)}</table></div>"
        )
    return "".join(parts)


def image(path: Path, text: str) -> str:
    """A picture as an element of a page, within the page."""
    picture = read_picture(path)
    kind = ' class="small"' if max(picture.size) <= 64 else ""
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    encoded = base64.b64encode(data.getvalue()).decode()
    words = f'alt="{_safe(text)}" title="{_safe(text)}"'
    return f'<img{kind} {words} src="data:image/png;base64,{encoded}">'
