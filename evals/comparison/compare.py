"""Guiders against each other: a grid of guiders and scales, all on the same prompts and seeds.

A larger scale raises preference scores by itself (GA-Eval, arXiv:2602.22570). So each method is
also held against CFG at the scale that goes as far along the gap: at its *effective scale*, the
mean over steps of ``<guided - u, c - u> / |c - u|^2``, at which CFG is drawn as well. Differences
are paired: the pictures share prompts and noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...guidance import CFG, Constant, Gate, Guider, Scale
from ..metrics.bootstrap import Estimate
from ..metrics.estimates import Figure
from ..runs.evaluate import evaluate
from ..runs.manifest import Request, model_facts
from ..runs.measure import Judges, check_sources
from ..runs.plan import exact_scale, folder_of
from ..runs.registry import Wanted, parse_metrics
from ..storage.processes import Processes

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EFFECTIVE = "effective-scale"


@dataclass(frozen=True)
class Method:
    """A guider at any scale.

    Attributes:
        label: as a person named it.
        at: the guider of a scale.
        fixed: the one scale that it can have, where its scale is its own.
    """

    label: str
    at: Callable[[float], Guider]
    fixed: float | None = None


@dataclass
class Cell:
    """One guider at one scale, and what was measured.

    Attributes:
        matched: the figures of CFG at this one's effective scale; empty where it is CFG.
        baseline: the folder of the first method at the same scale; "" for the first itself.
    """

    label: str
    scale: float
    guider: Guider
    folder: Path
    figures: dict[str, Figure] = field(default_factory=dict)
    matched: dict[str, Figure] = field(default_factory=dict)
    matched_scale: float | None = None
    baseline: str = ""

    def against_matched(self, key: str) -> Estimate | None:
        """The difference to CFG at the same effective scale, paired."""
        if key not in self.figures or key not in self.matched:
            return None
        return self.figures[key].minus(self.matched[key])


@dataclass
class Comparison:
    """Every cell, in the order of methods and then of scales."""

    request: Request
    wanted: list[Wanted]
    cells: list[Cell]
    model: dict[str, Any]

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(cell.label for cell in self.cells))

    def of(self, label: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.label == label]


def compare(
    request: Request,
    methods: Sequence[Method],
    scales: Sequence[float],
    out: Path,
    load: Callable[[], DiffusionPipeline],
    processes: Processes | None = None,
    match: bool = True,
) -> Comparison:
    """Draw and measure every method at every scale; a run that was killed goes on.

    Args:
        request: of every cell, but for its guider.
        match: also draw CFG at the effective scale of every cell that is not plain CFG.

    Raises:
        ValueError: something is not allowed.
    """
    processes = processes or Processes()
    plan, metrics = request.plan, request.metrics
    if plan is None:
        raise ValueError("plan is None; allowed is one, of pictures to draw")
    if match and EFFECTIVE not in metrics:
        metrics = (*metrics, EFFECTIVE)
    request = dataclasses.replace(request, metrics=metrics)
    wanted = parse_metrics(metrics, request.model)
    check_sources(wanted, request.reference)
    model = model_facts(load())
    judges = Judges.load(wanted, request.reference, processes, plan.threads)
    cells = cells_of(methods, scales, out)
    done: dict[Path, dict[str, Figure]] = {}

    def measured(cell: Cell) -> dict[str, Figure]:
        kept = [one.key for one in wanted if cell.baseline or one.metric.family != "similarity"]
        if cell.folder not in done:
            settings = dataclasses.replace(plan.settings, guider=cell.guider.to_dict())
            one = dataclasses.replace(
                request,
                plan=dataclasses.replace(plan, settings=settings),
                metrics=tuple(kept),
                baseline=cell.baseline,
            )
            done[cell.folder] = evaluate(
                one, cell.folder, load, processes, judges=judges, model=model,
                title=f"{cell.label} at {cell.scale:g}",
            )  # fmt: skip
        return done[cell.folder]

    for cell in cells:
        cell.figures = measured(cell)
    for cell in cells if match else ():
        scale = cell.figures[EFFECTIVE].value if cell.figures else 0.0
        scale = round(processes.share(scale), 2)
        if is_plain(cell.guider):
            continue
        twin = Cell("CFG", scale, CFG(scale), out)
        twin.folder = folder_of(out, twin.guider)
        cell.matched_scale, cell.matched = scale, measured(twin)
    return Comparison(request, wanted, cells, model)


def cells_of(methods: Sequence[Method], scales: Sequence[float], out: Path) -> list[Cell]:
    """Every method at every scale; where none acts, all are the same."""
    cells: list[Cell] = []
    for method in methods:
        for scale in [method.fixed] if method.fixed is not None else scales:
            guider = method.at(scale)
            if all(_number(term.when) == term.off for term in guider.terms) and not guider.posts:
                guider = CFG(1)
            cells.append(Cell(method.label, scale, guider, folder_of(out, guider)))
    first = methods[0].label
    for cell in cells:
        same = [c for c in cells if c.label == first and c.scale == cell.scale]
        if same and same[0].folder != cell.folder:
            cell.baseline = str(same[0].folder)
    return cells


def _number(scale: Scale) -> float | None:
    """The one number of a scale, within its gates; ``None`` where it has none."""
    while isinstance(scale, Gate):
        scale = scale.scale
    return scale.scale if isinstance(scale, Constant) else None


def is_plain(guider: Guider) -> bool:
    """Is it CFG at one number? Its effective scale is that number."""
    return exact_scale(guider) is not None
