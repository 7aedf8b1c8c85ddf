"""One self-contained HTML page: its style, tables and pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..storage.files import read_picture

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


def document(name: str, parts: Sequence[str]) -> str:
    """A page in the style of all reports, of parts of HTML."""
    style = STYLE.replace("SERIES", SERIES)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{safe(name)}</title><style>{style}</style></head><body><main>"
        + "\n".join(parts)
        + "</main></body></html>\n"
    )


def safe(text: str) -> str:
    """A text within HTML."""
    return html.escape(text)


def stacked(text: str) -> str:
    """The interval below the value."""
    value, _, interval = text.partition(" (")
    return f"{value}<small>{interval.rstrip(')')}</small>" if interval else value


def image(path: Path, text: str) -> str:
    """A picture as an element of a page, within the page."""
    picture = read_picture(path)
    kind = ' class="small"' if max(picture.size) <= 64 else ""
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    encoded = base64.b64encode(data.getvalue()).decode()
    words = f'alt="{safe(text)}" title="{safe(text)}"'
    return f'<img{kind} {words} src="data:image/png;base64,{encoded}">'


def strip(texts: Sequence[str], runs: Sequence[tuple[str, Path]]) -> str:
    """The first pictures of some runs, one below the other.

    Args:
        texts: what they show, one for each.
        runs: the name and the folder of each.
    """
    heads = "<th></th>" + "".join(f"<th>{safe(text[:60])}</th>" for text in texts)
    rows = []
    for name, folder in runs:
        files = (folder / "pictures" / f"{number:06d}.png" for number in range(len(texts)))
        cells = (f"<td>{image(*cell)}</td>" for cell in zip(files, texts, strict=True))
        rows.append(f"<tr><td>{name}</td>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table class="strip"><tr>{heads}</tr>{"".join(rows)}</table></div>'
