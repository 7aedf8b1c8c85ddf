"""What guidance does to the picture: drawn without it in one part of the run, then another."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...guidance import CFG, Custom
from ...guidance.calibration.profile import Effect
from ...guidance.engine.levels import Step
from ...pipelines.context.decode import decode
from ...pipelines.generation.settings import Settings
from ..runs.registry import COLOURS

Draw = Callable[[CFG, Sequence[Settings]], Tensor]


def runs(groups: int) -> float:
    """What the effect costs for each prompt, in plain runs."""
    unguided, alone = 0.5, groups - 0.5
    several = sum(1 - 0.5 * left / groups for left in range(2, groups))
    return unguided + alone + 2 * several


def pictures(groups: int) -> int:
    """That are drawn for each prompt."""
    return 1 + groups + 2 * max(0, groups - 2)


class Watch:
    """The clean images of the last evaluation of each group.

    Args:
        few: of so many prompts.
    """

    def __init__(self, groups: int, few: int) -> None:
        self.edges: list[int] = []
        self._groups, self._few = groups, few
        self._seen: dict[int, list[Tensor]] = {}

    def __call__(self, step: Step, x0: Tensor) -> None:
        self.edges = [round(i * step.total / self._groups) for i in range(self._groups + 1)]
        there = sum(len(batch) for batch in self._seen.get(step.index, []))
        if step.index + 1 in self.edges and there < self._few:
            self._seen.setdefault(step.index, []).append(x0[: self._few - there])

    def colours(self, pipe: Any, job: Settings, few: int) -> dict[str, list[float]]:
        """Figures of each group's, of the first prompts; none where they are not pictures."""
        found: dict[str, list[float]] = {name: [] for name in COLOURS}
        for _, batches in sorted(self._seen.items()):
            try:
                with torch.no_grad():
                    decoded = [decode(pipe, x0, job.height, job.width) for x0 in batches]
            except ValueError:
                return {}
            pictures = (torch.cat(decoded)[:few].float().cpu() / 2 + 0.5).clamp(0, 1)
            for name, values in found.items():
                values.append(colour(name, pictures))
        return found


def effect(
    draw: Draw, scale: float, jobs: Sequence[Settings], full: Tensor, edges: list[int]
) -> Effect:
    """Draw ``jobs`` without guidance in each group of evaluations, before and after.

    Args:
        draw: pictures (B, 3, H, W) of a guider.
        full: those of CFG at ``scale``.
        edges: where the groups begin, and the end.
    """
    none = draw(CFG(1), jobs)
    whole = _square(full - none)

    def off(evaluations: Container[int]) -> float:
        """How far pictures are off that are guided at these alone."""
        rule = Custom(lambda step: scale if step.index in evaluations else 1.0)
        return (_square(full - draw(CFG(rule), jobs)) / max(whole, 1e-12)) ** 0.5

    count = edges[-1]
    alone = [off({*range(count)} - {*range(a, b)}) for a, b in pairwise(edges)]
    before = [off(range(edge, count)) for edge in edges[2:-1]]
    after = [off(range(edge)) for edge in edges[1:-2]]
    return Effect(
        scale, len(jobs), whole**0.5, edges, alone,
        before=[0.0, *alone[:1], *before, 1.0] if len(edges) > 2 else [0.0, 1.0],
        after=[1.0, *after, *alone[-1:], 0.0] if len(edges) > 2 else [1.0, 0.0],
        colour={name: [colour(name, none), colour(name, full)] for name in COLOURS},
    )  # fmt: skip


def colour(name: str, pictures: Tensor) -> float:
    """The mean over pictures (B, 3, H, W) in [0, 1] of a figure of ``COLOURS``."""
    arrays = (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    return float(COLOURS[name]([Image.fromarray(array) for array in arrays]).mean())


def _square(difference: Tensor) -> float:
    return float(difference.double().square().mean())
