"""Figures as text and as rows of Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..metrics.bootstrap import Estimate
from ..runs.registry import Wanted


def shown(one: Wanted, estimate: Estimate, sign: bool = False) -> str:
    """``4.61 (4.20 to 5.03)``; with ``sign`` a plus before what is positive."""
    digits, plus = one.metric.digits, "+" if sign else ""
    text = f"{estimate.value:{plus}.{digits}f}"
    if math.isnan(estimate.low) or estimate.low == estimate.high:
        return text
    return f"{text} ({estimate.low:{plus}.{digits}f} to {estimate.high:{plus}.{digits}f})"


def head(one: Wanted) -> str:
    """A title, and which way is better."""
    arrow = {"lower": " ↓", "higher": " ↑"}.get(one.metric.better, "")
    unit = f", {one.metric.unit}" if one.metric.unit else ""
    return one.title + unit + arrow


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
