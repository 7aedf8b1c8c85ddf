"""Figures as text and as rows of Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..metrics.bootstrap import Estimate
from ..runs.manifest import Request
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


def table_row(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def run_facts(request: Request, model: Mapping[str, str]) -> list[str]:
    """What all runs of a report share: pictures, prompts, seeds, scheduler, precision.

    Args:
        request: one of the runs.
        model: what a manifest says of the model.
    """
    plan = request.plan
    assert plan is not None
    settings = plan.settings
    return [
        f"{request.count} pictures of {settings.num_inference_steps} steps each",
        f"prompts {plan.prompts}",
        f"seeds {settings.seed} to {settings.seed + request.count - 1}",
        f"scheduler {settings.scheduler or model['scheduler']}",
        f"{model['precision']} on {model['device']}",
    ]
