"""Curves with error bands as SVG, for a page: no scripts, colours from the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Place = Callable[[float, float], tuple[float, float]]
WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 42


@dataclass(frozen=True)
class Point:
    """A value with the ends of its interval, nan where there are none."""

    x: float
    y: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A series; ``style`` is its number among the series of the page."""

    label: str
    points: Sequence[Point]
    style: int


def chart(lines: Sequence[Line], x_title: str, y_title: str) -> str:
    """One panel; points are joined in the order in which they come."""
    points = [point for line in lines for point in line.points]
    xs = [p.x for p in points]
    ys = [v for p in points for v in (p.y, p.low, p.high) if math.isfinite(v)]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min(x_ticks[0], min(xs)), max(x_ticks[-1], max(xs))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, HEIGHT - BOTTOM - up

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_title)} over '
        f'{html.escape(x_title)}">'
    ]
    for tick in y_ticks:
        _, y = place(x_low, tick)
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="grid" {ends}/>')
        parts.append(_text("tick", LEFT - 7, y + 4, f"{tick:g}", "end"))
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(_text("tick", x, HEIGHT - BOTTOM + 17, f"{tick:g}"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_text("axis", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_title))
    parts.append(f'<g transform="translate(13 {middle}) rotate(-90)">')
    parts.append(_text("axis", 0, 0, y_title) + "</g>")
    for line in lines:
        parts += _band(line, place)
    for line in lines:
        parts += _curve(line, place)
    return "".join([*parts, "</svg>"])


def _text(kind: str, x: float, y: float, words: str, anchor: str = "middle") -> str:
    where = f'class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {where}>{html.escape(words)}</text>"


def _band(line: Line, place: Place) -> list[str]:
    known = [p for p in line.points if math.isfinite(p.low) and math.isfinite(p.high)]
    if len(known) < 2:
        return []
    edge = [place(p.x, p.high) for p in known] + [place(p.x, p.low) for p in reversed(known)]
    return [f'<polygon class="band s{line.style}" points="{_path(edge)}"/>']


def _curve(line: Line, place: Place) -> list[str]:
    where = [place(p.x, p.y) for p in line.points]
    parts = [f'<polyline class="line s{line.style}" points="{_path(where)}"/>']
    for point, (x, y) in zip(line.points, where, strict=True):
        note = html.escape(f"{line.label}, {point.note or f'{point.x:g}: {point.y:.4g}'}")
        parts.append(
            f'<g class="dot s{line.style}">{mark(line.style, x, y)}<title>{note}</title></g>'
        )
    return parts


def mark(style: int, x: float, y: float) -> str:
    """A shape of its own for each series, for those who do not tell the colours apart."""
    r = 3.6
    triangle = [(x, y - 1.3 * r), (x + 1.3 * r, y + r), (x - 1.3 * r, y + r)]
    diamond = [(x, y - 1.4 * r), (x + 1.4 * r, y), (x, y + 1.4 * r), (x - 1.4 * r, y)]
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>',
        f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"/>',
        f'<polygon points="{_path(triangle)}"/>',
        f'<polygon points="{_path(diamond)}"/>',
    )
    return shapes[style % len(shapes)]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from below ``low`` to above ``high``, in steps of 1, 2, 5, 10 and so on."""
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / (most - 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
