"""What is seen along the way of a guider: every prediction, kept as sizes and angles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...guidance import Constant, Guider, Negative, Prediction, Query, Reference, Term
from ...guidance.calibration.profile import LEVELS, SPACES, Gap, Track, reference_key
from ...guidance.engine.levels import Step
from ...guidance.engine.state import Rows
from ...guidance.engine.vectors import Number, Numbers, Vector, cosine, norm
from ...pipelines import guided
from ...pipelines.generation.generate import sample
from ...pipelines.generation.settings import Settings

NO_SIGNAL = 1e3  # of sigma: every eps is x there
NAMES = ("cosine", "cosine_eps", "parallel", "norm_ratio")  # of means and spreads


@dataclass
class Drawn:
    """What a run of a pipeline gives.

    Attributes:
        pictures: (B, 3, H, W) in [0, 1].
        evaluations: of all its pictures.
        scales: (T, B) effective scales, where they were asked for.
        latents: the shape of one image's.
    """

    pictures: Tensor
    evaluations: int
    steps: list[Step]
    scales: Tensor | None = None
    latents: tuple[int, ...] = ()


def draw(pipe: Any, guider: Guider, jobs: Sequence[Settings], diagnose: bool = False) -> Drawn:
    """One batch."""
    with guided(pipe, guider, quiet=True, diagnose=diagnose) as run:
        images = sample(pipe, jobs, output_type="pt")
    pictures = torch.stack([torch.as_tensor(image) for image in images]).float().cpu()
    if pictures.shape[1] != 3 and pictures.shape[-1] == 3:  # DiT answers with arrays
        pictures = pictures.permute(0, 3, 1, 2)
    scales = [r.diagnosis.effective_scale for r in run.records if r.diagnosis]
    return Drawn(
        pictures, sum(run.last.evaluations), run.last.steps,
        torch.tensor(scales) if diagnose else None,
    )  # fmt: skip


Look = Callable[[Step, Tensor], None]
"""``look(step, x0)`` sees the guided clean images (B, ...) of one evaluation."""


class _Seen(Term):
    """Adds nothing, and shows the predictions."""

    def __init__(
        self, reference: Reference, see: Callable[[Query, Prediction, Prediction], None]
    ) -> None:
        self.scale, self.reference, self.see = Constant(2.0), reference, see

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        self.see(q, positive, reference)
        return 0 * (positive - reference)

    def __str__(self) -> str:
        return f"a look at the {self.reference}"


@dataclass
class _Differences:
    """One reference in one batch: the gaps, and the figures of each evaluation."""

    gaps: list[Tensor] = field(default_factory=list)
    figures: dict[str, list[Tensor]] = field(default_factory=lambda: {name: [] for name in NAMES})

    def add(self, q: Query, c: Prediction, r: Prediction) -> None:
        level, figures = q.step.level, self.figures
        gap = c - r
        self.gaps.append(gap.tensor().detach())
        known = 0 < q.step.sigma < NO_SIGNAL
        unknown = Numbers(torch.full((len(q.x),), math.nan))
        for name, value in (
            ("cosine", cosine(c.x0, r.x0)),
            ("cosine_eps", cosine(c.eps(level), r.eps(level)) if known else unknown),
            ("parallel", cosine(gap, c.x0)),
            ("norm_ratio", norm(c.x0) / norm(r.x0)),
        ):
            values = value.values.detach()
            figures[name].append(values.cpu().double())  # not every device has float64


class Recorder:
    """The predictions of one guider, batch after batch, with little kept of each prompt.

    Args:
        guider: one term at one number.
        look: sees the guided clean images, of plain CFG alone.
    """

    def __init__(self, guider: Term, look: Look | None = None) -> None:
        assert guider.reference is not None
        self._guider, self._look = guider, look
        self._references = list(dict.fromkeys([Negative(), guider.reference]))
        self._sizes: list[Tensor] = []
        self._figures: list[list[dict[str, Tensor]]] = []
        self._scales: list[Tensor] = []
        self._products: Any = 0.0

    def draw(self, pipe: Any, jobs: Sequence[Settings]) -> Drawn:
        """One batch more."""
        clean: list[Tensor] = []
        sides = [_Differences() for _ in self._references]
        scale = getattr(self._guider.when, "scale", 1.0)

        def see(place: int, q: Query, c: Prediction, r: Prediction) -> None:
            sides[place].add(q, c, r)
            if place == 0:
                clean.append(c.x0.tensor().detach())
                if self._look is not None:
                    self._look(q.step, clean[-1] + (scale - 1) * sides[0].gaps[-1])

        whole: Guider = self._guider
        for place, reference in enumerate(self._references):
            whole = whole + _Seen(reference, lambda *seen, place=place: see(place, *seen))
        drawn = draw(pipe, whole, jobs, diagnose=True)
        drawn.latents = tuple(clean[0].shape[1:])
        assert drawn.scales is not None
        self._scales.append(drawn.scales)
        self._figures.append(
            [{name: torch.stack(v, 1) for name, v in side.figures.items()} for side in sides]
        )
        self._take([clean, *(side.gaps for side in sides)])
        return drawn

    def _take(self, kinds: list[list[Tensor]]) -> None:
        """D_c of each evaluation, and each reference's gaps, (B, ...)."""
        rows = torch.stack([v.flatten(1) for kind in kinds for v in kind], 1)  # (B, n T, elements)
        norms = rows.norm(dim=2)
        unit = rows / norms.clamp_min(1e-30)[..., None]
        self._products = self._products + (unit @ unit.transpose(1, 2)).cpu().double().sum(0)
        self._sizes.append(norms.cpu().double() / math.sqrt(rows.shape[2]))

    def track(self) -> Track:
        """What was seen so far."""
        sizes = torch.cat(self._sizes)
        own, *others = sizes.chunk(1 + len(self._references), dim=1)
        products = self._products / len(sizes)
        gaps = []
        for place, size in enumerate(others):
            batches = [batch[place] for batch in self._figures]
            seen = {name: torch.cat([batch[name] for batch in batches]) for name in NAMES}
            so_far = {"x0": _so_far(seen["cosine"]), "eps": _so_far(seen["cosine_eps"])}
            means = {name: value.nanmean(0) for name, value in seen.items()}
            spread = {
                name: (value - means[name]).square().nanmean(0).sqrt()
                for name, value in seen.items()
            }
            disagreement = {space: _quantiles(1 - so_far[space]) for space in SPACES}
            gaps.append(
                Gap(size=_quantiles(size), disagreement=disagreement, spread=spread, **means)
            )
        keys = [reference_key(reference) for reference in self._references]
        effective = float(torch.cat(self._scales, 1).nanmean())
        return Track(
            facts_of(self._guider), effective, len(sizes), own.mean(0), keys, gaps, products
        )


def facts_of(guider: Term) -> dict[str, Any]:
    """A term as a track names it: with networks by name, if they have one, else in a word."""
    assert guider.reference is not None
    return {
        "type": type(guider).__name__,
        "reference": reference_key(guider.reference),
        "scale": guider.when.to_dict(),
    }


def _so_far(cosines: Tensor) -> Tensor:
    """The largest up to each evaluation (N, T); -1 where nothing is known yet."""
    return cosines.nan_to_num(-1.0).cummax(1).values.clamp(-1, 1)


def _quantiles(values: Tensor) -> Tensor:
    """(T, levels) over prompts of (N, T)."""
    return values.double().quantile(torch.tensor(LEVELS, dtype=torch.float64), dim=0).T
