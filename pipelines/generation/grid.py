"""Labelled grids of pictures: two axes of settings, the evaluations under every cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ...guidance.engine.config import reject
from ..language.parse import UNGUIDED, split
from .generate import Picture

AXES = ("guider", "prompt", "scale", "seed", "steps")
CELL = 128  # smaller pictures are enlarged to this
Value = str | float
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, PAPER, FAINT = "#1f2328", "#ffffff", "#6e7781"


@dataclass(frozen=True)
class Axis:
    """A setting and its values, as ``name=a,b,c`` says them."""

    name: str
    values: tuple[Value, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """Read ``scale=3,5,7.5`` or, where values hold commas, ``prompt=a red heart, noto;a cat``.

        Raises:
            ValueError: the axis or one of its values is not allowed.
        """
        name, _, values = text.partition("=")
        items = split(values, ";") if ";" in values or name == "prompt" else split(values, ",")
        if name not in AXES or (not values and name != "prompt"):
            raise reject("", "axis", text, f"one of {', '.join(f'{a}=...' for a in AXES)}")
        if name in ("prompt", "guider"):
            return cls(name, tuple(items))
        kind: type[float] = float if name == "scale" else int
        try:
            return cls(name, tuple(kind(item) for item in items))
        except ValueError:
            raise reject("", f"axis {name}", values, "numbers between commas") from None

    def label(self, value: Value) -> str:
        """The heading of the value's row or column."""
        if self.name in ("prompt", "guider"):
            return "unguided" if (self.name, value) == ("guider", UNGUIDED) else str(value)
        return f"{self.name} {value:g}"


def draw(x: Axis, y: Axis, cell: Callable[[Value, Value], Picture]) -> Image.Image:
    """Make every picture with ``cell(x value, y value)`` and lay them out, x across and y down."""
    with tqdm(total=len(x.values) * len(y.values), desc="grid", unit="picture") as bar:
        rows = []
        for below in y.values:
            row = []
            for across in x.values:
                row.append(cell(across, below))
                bar.update()
            rows.append(row)
    captions = [[f"{picture.evaluations} evaluations" for picture in row] for row in rows]
    images = [[picture.image for picture in row] for row in rows]
    return layout(images, captions, [x.label(v) for v in x.values], [y.label(v) for v in y.values])


def layout(
    images: Sequence[Sequence[Image.Image]],
    captions: Sequence[Sequence[str]],
    columns: Sequence[str],
    rows: Sequence[str],
) -> Image.Image:
    """Pictures with column heads, row heads and a caption under each."""
    width = max(CELL, max(i.width for row in images for i in row))
    height = max(CELL, max(i.height for row in images for i in row))
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    gap = 12
    heads = [_wrap(column, font, width + gap / 2) for column in columns]  # into the gaps beside
    head = 26 * max(map(len, heads))
    left = min(220, max(int(font.getlength(row)) for row in rows)) + 2 * gap
    across, down = width + gap, height + 18 + gap
    size = (left + across * len(columns) + gap, head + gap + down * len(rows) + gap)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for j, lines in enumerate(heads):
        text = "\n".join(lines)
        pen.text((left + across * j + width / 2, gap), text, INK, font, anchor="ma", align="center")
    for i, row in enumerate(rows):
        top = head + gap + down * i
        text = "\n".join(_wrap(row, font, left - 2 * gap))
        pen.text((gap, top + height / 2), text, INK, font, anchor="lm")
        for j, image in enumerate(images[i]):
            corner = left + across * j
            shown = image.convert("RGB")
            if shown.size != (width, height):  # enlarge by whole pixels where possible
                factor = max(1, min(width // shown.width, height // shown.height))
                shown = shown.resize((shown.width * factor, shown.height * factor), 0)
            sheet.paste(shown, (corner + (width - shown.width) // 2, top))
            pen.rectangle((corner - 1, top - 1, corner + width, top + height), outline="#d0d7de")
            middle = corner + width / 2
            pen.text((middle, top + height + 3), captions[i][j], FAINT, small, anchor="ma")
    return sheet


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """Lines no wider than ``width`` pixels, broken at spaces, or within a word that is wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
