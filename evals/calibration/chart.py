"""A profile as one picture: SVG that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ...guidance.calibration.profile import LEVELS, NEGATIVE_KEY, Gap, Profile, Track
from ...guidance.engine.files import write_text
from ..report.charts import HEIGHT, WIDTH, Line, Point, chart, mark

COLUMNS, GAP, HEAD, FOOT = 3, 16, 64, 40
COLOURS = ("#0969da", "#bc4c00", "#8250df", "#1a7f37", "#bf3989", "#7d4e00")
STYLE = """text { font-family: system-ui, "Liberation Sans", sans-serif; fill: #1f2328; }
.panel { fill: #f6f8fa; stroke: #d1d9e0; } .title { font-size: 24px; font-weight: 600; }
.caption { font-size: 14px; font-weight: 600; } .key { font-size: 13px; }
.grid { stroke: #d1d9e0; } .tick { fill: #59636e; font-size: 11px; }
.axis, .faint { fill: #59636e; font-size: 12px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .band { opacity: .16; }"""
SERIES = "\n".join(
    f".line.s{i} {{ stroke: {colour}; }} .band.s{i}, .dot.s{i} {{ fill: {colour}; }}"
    for i, colour in enumerate(COLOURS)
)


def picture(profile: Profile) -> str:
    """The SVG: a line for each scale of CFG, with what nine tenths of the prompts lie between."""
    tracks = [
        track for track in profile.tracks
        if track.guider["type"] == "CFG" and track.guider["reference"] == NEGATIVE_KEY
    ]  # fmt: skip
    tracks = sorted(tracks, key=lambda track: track.effective)[: len(COLOURS)]
    along = "evaluation, from sigma {:.3g} to {:.3g}".format(*_ends(profile))
    panels = [
        ("Gap of the predictions", _quantile_lines(tracks), along, "RMS, median and 90 %"),
        ("Agreement of the clean images", _agreed_lines(tracks), along, "log10(1 - cosine so far)"),
        ("Cosine of the noises", _spread_lines(tracks, "cosine_eps"), along, "cosine in eps"),
        ("Share of the gap along D_c", _spread_lines(tracks, "parallel"), along, "cosine"),
        ("Norms", _spread_lines(tracks, "norm_ratio"), along, "|D_c| / |D_u|"),
        ("Guidance left out for a while", _alone(profile), along, "off, of its effect"),
        ("Guidance kept up to here", _kept(profile, True), along, "kept, of its effect"),
        ("Guidance kept from here on", _kept(profile, False), along, "kept, of its effect"),
        ("Saturation of the clean image", _inside(profile), along, "HSV saturation"),
    ]
    parts, shown = [], [panel for panel in panels if any(line.points for line in panel[1])]
    for number, (caption, lines, x_title, y_title) in enumerate(shown):
        left = GAP + number % COLUMNS * (WIDTH + GAP)
        top = HEAD + FOOT + number // COLUMNS * (HEIGHT + GAP + 30)
        where = f'<svg x="{left}" y="{top + 26}" width="{WIDTH}" height="{HEIGHT}" '
        parts += [
            f'<rect class="panel" x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT + 30}" '
            'rx="8"/>',
            f'<text class="caption" x="{left + 14}" y="{top + 20}">{html.escape(caption)}</text>',
            chart(lines, x_title, y_title).replace("<svg ", where, 1),
        ]
    wide = GAP + COLUMNS * (WIDTH + GAP)
    high = HEAD + FOOT + math.ceil(len(shown) / COLUMNS) * (HEIGHT + GAP + 30)
    facts = profile.facts
    title = f"{facts['model']}: what guidance does, {facts['num_inference_steps']} steps"
    few = sorted({effect.prompts for effect in profile.effects})
    about = (
        f"{facts['scheduler']}, {facts['prompts']} prompts, bands for nine tenths of them; the "
        f"effect on pictures from {' to '.join(str(n) for n in few[:: max(1, len(few) - 1)])}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" '
        f'height="{high}"><style>{STYLE}\n{SERIES}</style>'
        f'<rect width="{wide}" height="{high}" fill="#ffffff"/>'
        f'<text class="title" x="{GAP}" y="38">{html.escape(title)}</text>'
        f'<text class="faint" x="{GAP}" y="60">{html.escape(about)}</text>'
        f"{_key(tracks)}{''.join(parts)}</svg>\n"
    )


def write_chart(profile: Profile, path: Path) -> Path:
    """The picture as a file."""
    write_text(path, picture(profile))
    return path


def _ends(profile: Profile) -> tuple[float, float]:
    return profile.sigma[0], profile.sigma[-1]


def _key(tracks: Sequence[Track]) -> str:
    parts = []
    for style, track in enumerate(tracks):
        x = GAP + 130 * style
        parts.append(
            f'<polyline class="line s{style}" points="{x},80 {x + 28},80"/>'
            f'<g class="dot s{style}">{mark(style, x + 14, 80)}</g>'
            f'<text class="key" x="{x + 36}" y="85">{_label(track.effective)}</text>'
        )
    return "".join(parts)


def _label(scale: float) -> str:
    return f"CFG {scale:.3g}"


def _gap(track: Track) -> Gap:
    return track.gaps[track.references.index(NEGATIVE_KEY)]


def _line(scale: float, style: int, y: Sequence[float], low: Sequence[float] | None = None,
          high: Sequence[float] | None = None) -> Line:  # fmt: skip
    none = [math.nan] * len(y)
    rows = zip(y, low or none, high or none, strict=True)
    points = [Point(x, *row) for x, row in enumerate(rows) if math.isfinite(row[0])]
    return Line(_label(scale), points, style)


def _spread_lines(tracks: Sequence[Track], name: str) -> list[Line]:
    """Means with 1.645 standard deviations on both sides."""
    lines = []
    for style, track in enumerate(tracks):
        gap = _gap(track)
        mean: Tensor = getattr(gap, name)
        wide = 1.645 * gap.spread[name]
        low, high = mean - wide, mean + wide
        if name != "norm_ratio":
            low, high = low.clamp_min(-1), high.clamp_max(1)
        lines.append(_line(track.effective, style, mean.tolist(), low.tolist(), high.tolist()))
    return lines


def _quantile_lines(tracks: Sequence[Track]) -> list[Line]:
    lines = []
    for style, track in enumerate(tracks):
        size = _gap(track).size
        low, middle, high = (size[:, LEVELS.index(q)].tolist() for q in (0.05, 0.5, 0.95))
        lines.append(_line(track.effective, style, middle, low, high))
    return lines


def _agreed_lines(tracks: Sequence[Track]) -> list[Line]:
    """What a threshold is held against: the largest cosine so far, close to 1 as it is."""
    lines = []
    for style, track in enumerate(tracks):
        away = _gap(track).disagreement["x0"].clamp_min(1e-9).log10()
        low, middle, high = (away[:, LEVELS.index(q)].tolist() for q in (0.05, 0.5, 0.95))
        lines.append(_line(track.effective, style, middle, low, high))
    return lines


def _alone(profile: Profile) -> list[Line]:
    lines = []
    for style, effect in enumerate(profile.effects[: len(COLOURS)]):
        middles = [(a + b - 1) / 2 for a, b in zip(effect.edges, effect.edges[1:], strict=False)]
        rows = zip(middles, effect.alone, strict=True)
        points = [Point(x, y, math.nan, math.nan) for x, y in rows]
        lines.append(Line(_label(effect.scale), points, style))
    return lines


def _kept(profile: Profile, up_to: bool) -> list[Line]:
    lines = []
    for style, effect in enumerate(profile.effects[: len(COLOURS)]):
        lost = effect.after if up_to else effect.before
        rows = zip(effect.edges, lost, strict=True)
        points = [Point(x, 1 - y, math.nan, math.nan) for x, y in rows]
        lines.append(Line(_label(effect.scale), points, style))
    return lines


def _inside(profile: Profile) -> list[Line]:
    lines = []
    for style, effect in enumerate(profile.effects[: len(COLOURS)]):
        values = effect.x0.get("saturation", [])
        rows = zip(effect.edges[1:], values, strict=False)
        points = [Point(x - 1, y, math.nan, math.nan) for x, y in rows]
        lines.append(Line(_label(effect.scale), points, style))
    return [line for line in lines if line.points]
