"""A profile read for one method: thresholds, radii, effective scales."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .config import reject
from .denoiser import Denoiser, Requests
from .guider import Term
from .profile import LEVELS, NEGATIVE_KEY, Gap, Profile, Track, between
from .reference import NEGATIVE, POSITIVE, Branch, Negative, Reference
from .types import Prediction, Query, Readout, Step

PLACES = (
    0.05,
    0.15,
    0.25,
    0.35,
    0.45,
    0.55,
    0.65,
    0.75,
    0.85,
    0.95,
)  # of prompts that are replayed
REACH = (0.5, 1.25)  # of the weakest and the strongest that were measured


@dataclass(frozen=True)
class View:
    """A profile at one effective scale, along the way of one kind of method.

    Attributes:
        track: what was measured there, between two tracks where none is at that scale.
        steps: the run's.
        stages: see ``Profile``.
        numel: elements of one image's latents.
    """

    track: Track
    steps: Sequence[Step]
    stages: Sequence[int]
    numel: int

    @classmethod
    def of(
        cls,
        profile: Profile,
        term: Term,
        effective: float,
        steps: Sequence[Step],
        beyond: str = "take",
    ) -> View:
        """The tracks of this method where there are some, else those of CFG.

        Args:
            beyond: where they do not reach as far, "take" the last one, "warn" of it, or "refuse".

        Raises:
            ValueError: the term's reference was not measured.
        """
        assert term.reference is not None
        own = [t for t in profile.tracks if _is_like(t, term)]
        plain = [t for t in profile.tracks if t.guider["type"] == "CFG"
                 and t.guider["reference"] == NEGATIVE_KEY]  # fmt: skip
        tracks = own or [t for t in plain if t.gap(term.reference) is not None]
        if not tracks:
            raise ValueError(
                f"{type(term).__name__}: reference is {term.reference}, which the profile of "
                f"{profile.facts['model']} was not measured with; allowed after `guiders profile "
                "--guider` with that reference"
            )
        ends = min(t.effective for t in tracks), max(t.effective for t in tracks)
        within = 1 + REACH[0] * (ends[0] - 1) <= effective <= 1 + REACH[1] * (ends[1] - 1)
        if beyond != "take" and not within:
            text = (
                f"{type(term).__name__}: the effective scale is {effective:.3g}; the profile of "
                f"{profile.facts['model']} has it from {ends[0]:.3g} to {ends[1]:.3g}"
            )
            if beyond == "refuse":
                raise ValueError(f"{text}; allowed after `guiders profile` with further scales")
            warnings.warn(f"{text}; read at the end of that", stacklevel=2)
        return cls(_at(tracks, effective), steps, profile.stage, profile.numel)

    def gap(self, reference: Reference) -> Gap:
        found = self.track.gap(reference)
        assert found is not None
        return found

    def threshold(self, save: float, space: str, reference: Reference) -> float:
        """The cosine at which Adaptive Guidance saves that share of the evaluations.

        An evaluation is saved once the largest cosine of the solver steps before it has reached
        the threshold; how many prompts have is known for every step.

        Raises:
            ValueError: so much cannot be saved.
        """
        disagreement = self.gap(reference).disagreement[space]
        before = [_last_first(self.stages, index) for index in range(len(self.stages))]
        rows = [disagreement[at] for at in before if at is not None]

        def saved(log: float) -> float:
            return sum(_share_below(row, log) for row in rows) / (2 * len(before))

        low, high = math.log(1e-9), math.log(2.0)
        if save > (most := saved(high)):
            raise ValueError(
                f"Adaptive: save is {save:g}; allowed is at most {most:.3g} in "
                f"{len(before)} evaluations, the first of which is always guided"
            )
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if saved(middle) >= save else (middle, high)
        return 1 - math.exp(high)

    def radius(self, quantile: float, momentum: float, reference: Reference) -> float:
        """A quantile over prompts and evaluations of the gap's root mean square, with momentum."""
        kept: Tensor | float = 0.0
        before: Tensor | float = 0.0
        sizes = []
        for step, (_, gaps) in zip(self.steps, self._vectors(), strict=True):
            if step.stage == 0:
                before = kept
            gap = gaps[self._place(reference)]
            now = gap + momentum * before
            if step.stage == 0:
                kept = now
            sizes.append(now.norm(dim=1) / math.sqrt(self.numel))
        return float(torch.cat(sizes).quantile(quantile))

    def effective(self, term: Term) -> float:
        """The effective scale of a term, the mean over evaluations and prompts.

        The term is asked itself, on vectors that have the measured sizes and angles.

        Raises:
            ValueError: it depends on more than those.
        """
        if not term.by_products:
            raise reject(type(term).__name__, "match", str(term), "of CFG or APG, whose effect "
                         "follows from what a profile has")  # fmt: skip
        denoiser = Denoiser(term, len(PLACES), diagnose=True)
        scales = []
        for step, (positive, gaps) in zip(self.steps, self._vectors(), strict=True):
            here = {POSITIVE: positive, NEGATIVE: positive - gaps[self._place(Negative())]}
            assert term.reference is not None
            here[term.reference.branch()] = positive - gaps[self._place(term.reference)]
            q = Query(torch.zeros_like(positive), step)

            def network(
                q: Query, requests: Requests, here: dict[Branch, Tensor] = here
            ) -> dict[Branch, Prediction]:
                read = Readout(0.0, 1.0)
                return {b: Prediction(q.x, here[b], read).rows(r) for b, r in requests.items()}

            diagnosis = denoiser(q, network).record.diagnosis
            assert diagnosis is not None
            scales += diagnosis.effective_scale
        return sum(scales) / len(scales)

    def _place(self, reference: Reference) -> int:
        return next(i for i, gap in enumerate(self.track.gaps) if gap is self.gap(reference))

    def _vectors(self) -> list[tuple[Tensor, list[Tensor]]]:
        """For each step D_c and the gaps (P, numel) of prompts with small to large gaps.

        Vectors with the measured cosines need as many dimensions as there are of them; the
        others are zero, so that the number of elements is right.
        """
        count = len(self.steps)
        values, vectors = torch.linalg.eigh(self.track.products)
        rows = vectors * values.clamp_min(0).sqrt()
        rows = rows / rows.norm(dim=1, keepdim=True)  # rounding left some not quite possible
        width = max(self.numel, rows.shape[1])
        rows = torch.nn.functional.pad(rows, (0, width - rows.shape[1])) * math.sqrt(self.numel)
        result = []
        for t in range(count):
            positive = (self.track.size[t] * rows[t]).expand(len(PLACES), -1)
            gaps = []
            for n, gap in enumerate(self.track.gaps, 1):
                sizes = [between(place, LEVELS, gap.size[t].tolist()) for place in PLACES]
                gaps.append(torch.tensor(sizes, dtype=torch.float64)[:, None] * rows[n * count + t])
            result.append((positive, gaps))
        return result


def _is_like(track: Track, term: Term) -> bool:
    """Was it measured along the way of such a term?"""
    reference = track.guider["reference"]
    if track.guider["type"] != type(term).__name__ or reference not in track.references:
        return False
    assert term.reference is not None
    return track.gap(term.reference) is track.gaps[track.references.index(reference)]


def _at(tracks: Sequence[Track], effective: float) -> Track:
    """Between the tracks on both sides; the outermost beyond them."""
    ordered = sorted(tracks, key=lambda track: track.effective)
    above = [track for track in ordered if track.effective >= effective]
    below = [track for track in ordered if track.effective < effective]
    if not above or not below:
        return (above or below[-1:])[0]
    low, high = below[-1], above[0]
    if low.references != high.references:
        return low if effective - low.effective < high.effective - effective else high
    a, b = math.log(low.effective), math.log(high.effective)
    share = (math.log(max(effective, 1e-6)) - a) / (b - a)

    def mix(one: Tensor, other: Tensor) -> Tensor:
        return one + share * (other - one)

    gaps = [
        replace(
            one,
            size=mix(one.size, other.size),
            disagreement={
                space: torch.exp(mix(_log(value), _log(other.disagreement[space])))
                for space, value in one.disagreement.items()
            },
        )
        for one, other in zip(low.gaps, high.gaps, strict=True)
    ]
    return replace(
        low, effective=effective, size=mix(low.size, high.size), gaps=gaps,
        products=mix(low.products, high.products),
    )  # fmt: skip


def _last_first(stages: Sequence[int], index: int) -> int | None:
    """The first evaluation of the solver step before that of ``index``; None for the first."""
    first = [i for i, stage in enumerate(stages[: index + 1]) if stage == 0 or i == 0]
    return first[-2] if len(first) > 1 else None


def _log(disagreement: Tensor) -> Tensor:
    return disagreement.clamp_min(1e-9).log()


def _share_below(quantiles: Tensor, log: float) -> float:
    """The share of prompts whose disagreement is at most ``exp(log)``."""
    values = _log(quantiles).tolist()
    return 0.0 if log < values[0] else between(log, values, LEVELS)
