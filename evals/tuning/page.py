"""A search as Markdown, JSON, the best guider, and one page that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...guidance.engine.files import write_text
from ..metrics.bootstrap import Estimate
from ..report.charts import Line, Point, chart, mark
from ..report.html import PICTURES, document, safe, strip
from ..report.text import head, run_facts, shown, table_row
from ..runs.manifest import versions
from ..storage.files import write_json
from ..storage.prompts import load_prompts
from .search import Trial
from .tune import Tuning

VERDICTS = {
    "holds": "The improvement holds.",
    "within chance": "The improvement is within chance.",
    "is worse": "The best of the search is worse.",
    "cannot be told": "Whether the improvement holds cannot be told, for want of an interval.",
}
OTHER, BEST, START = 0, 1, 2  # series of the charts


def title(tuning: Tuning) -> str:
    assert tuning.request.plan is not None
    return f"{tuning.space.text} on {tuning.request.plan.settings.model}"


def facts(tuning: Tuning) -> str:
    """What all trials share, in a line."""
    goal, budget = tuning.goal, f" of {tuning.budget}"
    parts = [
        f"searched by {goal.one.title}, {goal.words}",
        f"{len(tuning.trials)}{budget if len(tuning.trials) < tuning.budget else ''} trials",
        *run_facts(tuning.request, tuning.model),
    ]
    if tuning.refused:
        parts.append(f"refused combinations: {len(tuning.refused)}")
    if goal.one.metric.family == "set":
        parts.append(f"real pictures: {tuning.request.reference}")
    if all(one.default is None for one in tuning.space.ranges):
        parts.append("the search began in the middle")
    if tuning.space.parts == (tuning.space.text,):
        one = tuning.space.ranges[0]
        parts.append(f"no range was given, so the scale is searched, {one.low:g} to {one.high:g}")
    return "; ".join(parts) + "; 95 % bootstrap intervals."


def settings(tuning: Tuning, trial: Trial) -> str:
    """``scale 4.1, eta 0.3``."""
    pairs = zip(tuning.space.names, trial.values, strict=True)
    return ", ".join(f"{name} {value:g}" for name, value in pairs)


def verdict(tuning: Tuning) -> tuple[str, str]:
    """What the search found, in short, and the figures of it."""
    goal, start, best = tuning.goal, tuning.start, tuning.best
    digits = goal.one.metric.digits

    def plain(value: float) -> str:
        return shown(goal.one, Estimate(value, math.nan, math.nan))

    if len(tuning.trials) < tuning.budget and tuning.check is None:
        return (
            f"{len(tuning.trials)} of {tuning.budget} trials so far.",
            f"The best is {settings(tuning, best)}, at {plain(best.estimate.value)}; start it "
            "again to go on.",
        )
    if not tuning.improved:
        return (
            "Nothing better than the start was found.",
            f"It is {settings(tuning, start)}, at {plain(start.estimate.value)}.",
        )
    story = (
        f"In the search, from {plain(start.estimate.value)} ({settings(tuning, start)}) to "
        f"{plain(best.estimate.value)} ({settings(tuning, best)}), the best of "
        f"{len(tuning.trials)}"
    )
    if (same := alike(tuning)) is not None:
        story += f", from which {same} of the others cannot be told on these pictures"
    ends = [
        one.name
        for one, value in zip(tuning.space.ranges, best.values, strict=True)
        if value in (one.low, one.high)
    ]
    if ends:
        story += f"; {' and '.join(ends)} at an end of what was searched"
    check = tuning.check
    if check is None:
        return "Not checked yet.", f"{story}. Chance flatters the best of many."
    what = "" if goal.target is None else " of the distance to the target"
    gap, count = check.difference, tuning.request.count
    known = count - check.new
    also = f"; it has seen {known} of their prompts" if known else ", nor their prompts"
    interval = "" if math.isnan(gap.low) else f" ({gap.low:+.{digits}f} to {gap.high:+.{digits}f})"
    return (
        VERDICTS[check.verdict],
        f"{story}. On {count} pictures of seeds {check.seeds[0]} to {check.seeds[1]}, which the "
        f"search has not seen{also}: from {plain(check.start.value)} to "
        f"{plain(check.best.value)}, a paired difference{what} of "
        f"{gap.value:+.{digits}f}{interval}.",
    )


def ranked(tuning: Tuning) -> list[Trial]:
    """From the best to the worst."""
    return sorted(tuning.trials, key=lambda trial: (trial.loss, trial.number))


def alike(tuning: Tuning) -> int | None:
    """How many other trials cannot be told from the best; ``None`` without intervals."""
    gaps = [tuning.goal.gap(t.figure, tuning.best.figure) for t in tuning.trials]
    if any(math.isnan(gap.low) for gap in gaps):
        return None
    return sum(gap.low <= 0 <= gap.high for gap in gaps) - 1


def rows(tuning: Tuning) -> list[list[str]]:
    """The table of trials, its head first."""
    goal, best = tuning.goal, tuning.best
    gap = "to the best" if goal.target is None else "further from the target than the best"
    table = [["trial", *tuning.space.names, head(goal.one), gap, "evaluations per image"]]
    for trial in ranked(tuning):
        name = f"{trial.number}{' (start)' if trial.number == 0 else ''}"
        values = [f"{value:g}" for value in trial.values]
        far = "" if trial is best else shown(goal.one, goal.gap(trial.figure, best.figure), True)
        table.append([name, *values, shown(goal.one, trial.estimate), far, f"{trial.nfe:.1f}"])
    return table


def markdown(tuning: Tuning) -> str:
    """What was found, and every trial."""
    short, story = verdict(tuning)
    top, *rest = map(table_row, rows(tuning))
    line = "|---" * (len(tuning.space.names) + 4) + "|"
    return "\n".join(
        [f"# {title(tuning)}", "", facts(tuning), "", f"**{short}** {story}", "", top, line, *rest]
    ) + "\n"  # fmt: skip


def as_json(tuning: Tuning) -> dict[str, Any]:
    """Everything, with what it depends on."""
    check = tuning.check

    def plain(value: float) -> float | None:
        return None if math.isnan(value) else value

    def trial(one: Trial) -> dict[str, Any]:
        return {
            "trial": one.number,
            "settings": dict(zip(tuning.space.names, one.values, strict=True)),
            "value": one.estimate.value,
            "low": plain(one.estimate.low),
            "high": plain(one.estimate.high),
            "nfe": one.nfe,
            "guider": tuning.guider(one).to_dict(),
        }

    return {
        "guider": tuning.space.text,
        "metric": tuning.goal.one.key,
        "better": tuning.goal.words,
        "request": tuning.request.to_dict(),
        "model": tuning.model,
        "versions": versions(),
        "check": check
        and {
            "verdict": check.verdict,
            "seeds": list(check.seeds),
            "new_prompts": check.new,
            "start": check.start.to_dict(),
            "best": check.best.to_dict(),
            "difference": [plain(value) for value in check.difference],
        },
        "trials": [trial(one) for one in ranked(tuning)],
        "refused": tuning.refused,
    }


def page(tuning: Tuning) -> str:
    """The page as HTML."""
    short, story = verdict(tuning)
    data = safe(json.dumps(as_json(tuning), indent=1))
    table = "".join(
        "<tr>" + "".join(f"<{cell}>{safe(text)}</{cell}>" for text in row) + "</tr>"
        for row, cell in zip(rows(tuning), ["th", *["td"] * len(tuning.trials)], strict=True)
    )
    parts = [
        f"<h1>{safe(title(tuning))}</h1>",
        f'<p class="faint">{safe(facts(tuning))}</p>',
        f"<p><strong>{safe(short)}</strong> {safe(story)}</p>",
        _key(),
        _charts(tuning),
        _strips(tuning),
        "<h2>All trials</h2>",
        f'<div class="scroll"><table>{table}</table></div>',
        "<h2>How it was made</h2>",
        "<p>All trials drew the same prompts and seeds. Every guider that was drawn has a folder "
        "with a manifest, from which <code>guiders evaluate --from</code> repeats it; the best one "
        "is <code>best.json</code>, for <code>--guider-config</code>.</p>",
        f"<details><summary>All of it as JSON</summary><pre>{data}</pre></details>",
    ]
    return document(title(tuning), parts)


def _key() -> str:
    items = [
        f'<span><svg viewBox="0 0 28 12"><g class="dot s{style}">{mark(style, 14, 6)}</g></svg>'
        f"{label}</span>"
        for style, label in ((OTHER, "a trial"), (START, "the start"), (BEST, "the best"))
    ]
    return f'<div class="key">{"".join(items)}</div>'


def _charts(tuning: Tuning) -> str:
    """The figure over each setting, and over the trials."""
    panels = [
        (one.name, [trial.values[place] for trial in tuning.trials])
        for place, one in enumerate(tuning.space.ranges)
    ]
    panels.append(("trial", [float(trial.number) for trial in tuning.trials]))
    figures = "".join(
        f"<figure><figcaption>{safe(name)}</figcaption>"
        f"{chart(_dots(tuning, across), name, tuning.goal.one.metric.title)}</figure>"
        for name, across in panels
    )
    return f'<div class="charts">{figures}</div>'


def _dots(tuning: Tuning, across: Sequence[float]) -> list[Line]:
    """A line of one point for each trial: they are not joined. Start and best lie on top."""
    best = tuning.best.number
    lines = []
    for trial, x in zip(tuning.trials, across, strict=True):
        style = BEST if trial.number == best else START if trial.number == 0 else OTHER
        note = f"{settings(tuning, trial)}: {shown(tuning.goal.one, trial.estimate)}"
        y = trial.estimate.value
        point = Point(x, y, math.nan, math.nan, note)
        lines.append(Line(f"trial {trial.number}", [point], style))
    return sorted(lines, key=lambda line: line.style != OTHER)


def _strips(tuning: Tuning) -> str:
    """The first pictures of the check, by the start and by the best."""
    check, count = tuning.check, min(PICTURES, tuning.request.count)
    if check is None or not tuning.request.keep:
        return ""
    prompts = load_prompts(str(check.folders[0].parent.parent / "prompts.jsonl"))
    texts = [prompts[number] for number in range(count)]
    runs = list(zip(("start", "best"), check.folders, strict=True))
    return f"<h2>Pictures that the search has not seen</h2>{strip(texts, runs)}"


def write_tuning(tuning: Tuning, out: Path) -> Path:
    """``best.json``, ``table.md``, ``results.json``, and ``tune.html``, which it answers with."""
    write_json(out / "best.json", tuning.guider(tuning.best).to_dict())
    write_json(out / "results.json", as_json(tuning))
    for name, text in (("table.md", markdown(tuning)), ("tune.html", page(tuning))):
        write_text(out / name, text)
    return out / "tune.html"
