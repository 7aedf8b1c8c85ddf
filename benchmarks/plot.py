"""Line plots without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLOURS = [
    "#1f6feb", "#d1242f", "#1a7f37", "#e6a100", "#8250df", "#57606a", "#0aa5a5", "#e36ab5",
]  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 1100, 540, 90, 60, 300, 70


@dataclass
class Line:
    """A series; with ``joined=False`` only its points are drawn."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    joined: bool = True


def plot(path: Path, title: str, across: str, lines: Sequence[Line], log: bool = False) -> None:
    """Draw ``lines`` into a PNG; ``log`` is of the vertical axis, the horizontal one has the first
    line's numbers."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(18), ImageFont.load_default(14)
    scale = math.log10 if log else float
    xs = [x for line in lines for x in line.x]
    ys = [scale(y) for line in lines for y in line.y]
    low, high = min(ys), max(ys)
    margin = 0.06 * (high - low or 1)
    low, high = low - margin, high + margin
    left, right = min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - scale(y)) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return across, down

    for value in ticks(low, high):
        y = 10**value if log else value
        _, down = place(left, y)
        draw.line([(LEFT, down), (WIDTH - RIGHT, down)], fill="#d0d7de")
        draw.text((LEFT - 8, down), f"{y:.3g}", fill="#24292f", font=small, anchor="rm")
    for x in sorted(set(lines[0].x)):
        place_x, _ = place(x, 10**low if log else low)
        draw.text((place_x, HEIGHT - BOTTOM + 8), f"{x:g}", fill="#24292f", font=small, anchor="ma")
    draw.line([(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], "#24292f")
    draw.text((LEFT, 18), title, fill="black", font=font)
    draw.text((WIDTH - RIGHT, HEIGHT - 26), across, fill="black", font=small, anchor="rs")
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        if line.joined:
            draw.line(points, fill=colour, width=3)
        for x, y in points:
            draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=colour)
        down = TOP + 10 + 22 * number
        draw.rectangle([WIDTH - 285, down, WIDTH - 267, down + 12], fill=colour)
        draw.text((WIDTH - 259, down + 6), line.name, fill="black", font=small, anchor="lm")
    picture.save(path)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
