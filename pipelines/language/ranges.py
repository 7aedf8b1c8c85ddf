"""Guiders with ranges in place of numbers: ``apg(scale=2..16, eta=0..1)``, to be searched."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...guidance import Config, Gate, Guider, Term
from ...guidance.engine.config import is_number
from .parse import parse_guider

SCALES = (1.0, 12.0)  # where the scale is searched, of a guider without ranges
MOST = 8  # ranges
END = r"[^\s()\[\],;=]"
RANGE = re.compile(rf"(?<=[(\[,;=])(\s*)({END}+?)\s*\.\.\s*({END}+)(?=\s*[)\],;])")


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high`` that a setting may have.

    Attributes:
        name: of the setting, such as ``eta`` or ``interval.low``.
        whole: it holds whole numbers only.
        default: of the setting, where it is a number in the range.
    """

    name: str
    low: float
    high: float
    whole: bool = False
    default: float | None = None

    @property
    def middle(self) -> float:
        return self.rounded((self.low + self.high) / 2)

    def rounded(self, value: float) -> float:
        """Rounded to a hundredth of the range or less: finer steps cannot be told apart."""
        digits = 0 if self.whole else max(0, 2 - math.floor(math.log10(self.high - self.low)))
        return min(max(round(float(value), digits), self.low), self.high)


@dataclass(frozen=True)
class Space:
    """A guider in words, some of whose numbers are ranges.

    Attributes:
        text: as it was given.
        ranges: in order.
        parts: the words between the ranges; a single one if the scale is searched instead.
    """

    text: str
    ranges: tuple[Range, ...]
    parts: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.ranges]

    def at(self, values: Sequence[float]) -> Guider:
        """The guider of these numbers, one for each range.

        Raises:
            ValueError: it is not allowed.
        """
        return _guider(self.parts, values)

    @property
    def start(self) -> list[float]:
        """The default of each setting, or the middle of its range if the default is outside; all
        middles if that combination is refused."""
        middles = [one.middle for one in self.ranges]
        values = [one.middle if one.default is None else one.default for one in self.ranges]
        return values if _refusal(self.parts, values) is None else middles


def parse_space(text: str) -> Space:
    """Read a guider with ``LOW..HIGH`` wherever a number may stand; else as ``parse_guider``.

    Without any range the scale is searched over 1 to 12.

    Raises:
        ValueError: a range is not one, or the guider is refused in its middle or at its ends.
    """
    found = list(RANGE.finditer(text))
    bounds, parts, start = [], [], 0
    for match in found:
        if (ends := _ends(match)) is not None:
            bounds.append(ends)
            parts.append(text[start : match.start()] + match[1])
            start = match.end()
    parts.append(text[start:])
    if len(bounds) > MOST:
        raise ValueError(f"guider: expected at most {MOST} ranges, got {len(bounds)}")
    if not bounds:
        return _of_scale(text)
    middles = [(low + high) / 2 for low, high in bounds]
    whole = [_is_whole(parts, bounds, middles, place) for place in range(len(bounds))]
    ranges = [Range("", *ends, w) for ends, w in zip(bounds, whole, strict=True)]
    middles = [one.middle for one in ranges]
    if (refusal := _refusal(parts, middles)) is not None:
        raise ValueError(f"guider {text!r}: in the middle of its ranges, {refusal}")
    for place, one in enumerate(ranges):
        for end in (one.low, one.high):
            _check_end(text, parts, ranges, place, end)
    return Space(text, tuple(_named(parts, ranges)), tuple(parts))


def _ends(match: re.Match[str]) -> tuple[float, float] | None:
    """The numbers of a range; ``None`` if the dots belong to something else, such as a path."""
    try:
        low, high = float(match[2]), float(match[3])
    except ValueError:
        return None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "guider: expected the range LOW..HIGH, two finite numbers with LOW below HIGH, got "
            f"{match[0].strip()!r}"
        )
    return low, high


def _of_scale(text: str) -> Space:
    """The space of a guider without ranges: its scale is searched."""
    low, high = SCALES
    default = parse_guider(text).terms[0].when.inner.to_dict()
    try:
        parse_guider(text, low)
        parse_guider(text, high)
    except ValueError as error:
        raise ValueError(
            "guider: expected a range in place of a number, as in cfg(2..10), got "
            f"{text!r}, whose scale cannot be searched ({error})"
        ) from None
    if not is_number(default) or not low <= default <= high:
        raise ValueError(
            f"guider: expected a range in place of a number, got {text!r}, whose scale is "
            f"{default} by default and not in {low:g}..{high:g}"
        )
    return Space(text, (Range("scale", low, high, default=float(default)),), (text,))


def _guider(parts: Sequence[str], values: Sequence[float]) -> Guider:
    if len(parts) == 1:
        return parse_guider(parts[0], values[0])
    words = [f"{value:.12g}" for value in values]
    return parse_guider("".join(a + b for a, b in zip(parts, [*words, ""], strict=True)))


def _refusal(parts: Sequence[str], values: Sequence[float]) -> ValueError | None:
    """Why these numbers are refused; ``None`` if they are not."""
    try:
        _guider(parts, values)
    except ValueError as error:
        return error
    return None


def _is_whole(
    parts: Sequence[str], bounds: Sequence[tuple[float, float]], middles: list[float], place: int
) -> bool:
    """Does that place hold whole numbers only? Found by trying numbers there."""
    low, high = bounds[place]
    if low != int(low) or high != int(high):
        return False
    some = (low, float(int(middles[place])), high - 1)

    def allowed(value: float) -> bool:
        return _refusal(parts, [*middles[:place], value, *middles[place + 1 :]]) is None

    # Both ends are tried: a number may be refused because of another setting.
    return any(map(allowed, some)) and not any(allowed(value + 0.5) for value in some)


def _check_end(
    text: str, parts: Sequence[str], ranges: Sequence[Range], place: int, end: float
) -> None:
    """Complain of an end that is refused with the other ranges at their middles, lows and highs."""
    first = None
    for others in ("middle", "low", "high"):
        values = [getattr(one, others) for one in ranges]
        values[place] = end
        refusal = _refusal(parts, values)
        if refusal is None:
            return
        first = first or refusal
    one = ranges[place]
    raise ValueError(f"guider {text!r}: at the end {end:g} of {one.low:g}..{one.high:g}, {first}")


def _named(parts: Sequence[str], ranges: Sequence[Range]) -> Iterator[Range]:
    """The ranges with the names and defaults of the settings that they stand for.

    The number is changed, and what then differs in the guider's JSON is its setting.
    """
    middles = [one.middle for one in ranges]
    whole = _guider(parts, middles)
    seen: Counter[str] = Counter()
    for place, one in enumerate(ranges):
        path = None
        for other in (one.low, one.high, one.rounded(one.low + (one.high - one.low) / 4)):
            values = [*middles[:place], other, *middles[place + 1 :]]
            if _refusal(parts, values) is None:
                path = _difference(whole.to_dict(), _guider(parts, values).to_dict())
                break
        if path is None:
            raise ValueError(
                "guider: expected a range in place of a number, got one where no number stands, "
                f"{one.low:g}..{one.high:g}"
            )
        name, default = _setting(whole, path)
        seen[name] += 1
        if seen[name] > 1:
            name += f" {seen[name]}"
        inside = default is not None and one.low <= default <= one.high
        yield Range(name, one.low, one.high, one.whole, default if inside else None)


def _difference(a: Any, b: Any, path: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
    """The path to the first number that differs between two JSON values; ``None`` if none does."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys: Any = [key for key in a if key in b]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        keys = range(len(a))
    else:
        return path if is_number(a) and is_number(b) and a != b else None
    inner = (_difference(a[key], b[key], (*path, key)) for key in keys)
    return next((found for found in inner if found is not None), None)


def _setting(guider: Guider, path: tuple[Any, ...]) -> tuple[str, float | None]:
    """The name of the setting at a path in the guider's JSON, and its default."""
    data, owners = guider.to_dict(), []  # the configs on the way, each with its key
    for key in path:
        if isinstance(data, dict):
            owners.append((data, key))
        data = data[key]
    config, key = owners.pop()
    while issubclass(Config.registry[config["type"]], Gate) and key == "scale":
        config, key = owners.pop()  # the scale in a gate is that of the method
    kind = Config.registry[config["type"]]
    alone = issubclass(kind, Term) and len(guider.terms) == 1
    name = key if alone else f"{kind.__name__.lower()}.{key}"
    if isinstance(path[-1], int):
        return f"{name}[{path[-1]}]", None
    try:
        default = kind.from_dict({k: v for k, v in config.items() if k != key}).to_dict()[key]
    except ValueError:  # it has no default, or would import functions
        return name, None
    return name, float(default) if is_number(default) else None
