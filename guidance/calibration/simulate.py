"""A profile read for one method: thresholds, radii, effective scales."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..engine.config import reject
from ..engine.denoiser import Denoiser
from ..engine.guider import Term
from ..engine.levels import Readout, Step
from ..engine.predictions import Prediction, Query
from ..engine.reference import NEGATIVE, POSITIVE, Asked, Branch, Negative, Reference
from ..engine.scale import Constant, Custom, Gate, PerImage, Scale, as_scale
from ..engine.state import State
from ..scales.adaptive import Adaptive
from ..terms.apg import APG
from .profile import LEVELS, NEGATIVE_KEY, Gap, Profile, Track, between

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
        numel: elements of one image's latents.
    """

    track: Track
    steps: Sequence[Step]
    numel: int

    @classmethod
    def of(
        cls,
        profile: Profile,
        term: Term,
        effective: float,
        steps: Sequence[Step],
        beyond: str = "take",
        alone: bool = True,
    ) -> View:
        """The tracks of this method where there are some, else those of CFG.

        Args:
            effective: of all terms together.
            alone: is it the only term? The way of a sum is not one of its terms' own; those of CFG
                go first then.
            beyond: where they do not reach as far, "take" the last one, "warn" of it, or "refuse".

        Raises:
            ValueError: the term's reference was not measured.
        """
        assert term.reference is not None
        own = [t for t in profile.tracks if _is_like(t, term)]
        plain = [t for t in profile.tracks if t.guider["type"] == "CFG"
                 and t.guider["reference"] == NEGATIVE_KEY]  # fmt: skip
        plain = [t for t in plain if t.gap(term.reference) is not None]
        rest = [t for t in profile.tracks if t.gap(term.reference) is not None]
        tracks = (own or plain or rest) if alone else (plain or own or rest)
        if not tracks:
            raise ValueError(
                f"{type(term).__name__}: reference is {term.reference}, which the profile of "
                f"{profile.facts['model']} was not measured with; allowed after `guiders profile "
                "--guider` with that reference"
            )
        reached = [t.effective for t in (*tracks, *plain)]
        ends = min(reached), max(reached)
        least = min(ends[0], 1 + REACH[0] * (ends[0] - 1))  # it may be below 1
        most = max(ends[1], 1 + REACH[1] * (ends[1] - 1))
        within = least - 0.01 <= effective <= most + 0.01
        if beyond != "take" and not within:
            text = (
                f"{type(term).__name__}: the effective scale is {effective:.3g}; the profile of "
                f"{profile.facts['model']} is good for {least:.3g} to {most:.3g}"
            )
            if beyond == "refuse":
                more = "--scales" if plain else "--guider, the same at another scale"
                raise ValueError(
                    f"{text}; allowed is that, or more after `guiders profile` into the same file "
                    f"with further {more}"
                )
            warnings.warn(f"{text}; read at the end of that", stacklevel=2)
        return cls(_at(tracks, effective), steps, profile.numel)

    def gap(self, reference: Reference) -> Gap:
        found = self.track.gap(reference)
        assert found is not None
        return found

    def threshold(
        self,
        save: float,
        space: str,
        reference: Reference,
        acts: Sequence[bool],
        others: Sequence[bool],
        branches: int,
    ) -> float:
        """The cosine at which Adaptive Guidance saves that share of the evaluations.

        An evaluation is saved where there is no guidance anyway, and once the largest cosine of
        the solver steps before it has reached the threshold; how many prompts have is known for
        every step.

        Args:
            acts: is there guidance at each evaluation, but for this rule?
            others: is there, by terms that ask for the same and have no such rule?
            branches: evaluations of a step that is guided.

        Raises:
            ValueError: so much cannot be saved, or more is anyway.
        """
        gap = self.gap(reference)
        disagreement = gap.disagreement[space]
        means = (gap.cosine if space == "x0" else gap.cosine_eps).nan_to_num(-1).tolist()
        seen = largest = -1.0  # where guided, and at all
        rows, count = [], len(self.steps)
        before: Tensor | None = None
        now: Tensor | None = None
        for step, acting, pinned, row, mean in zip(
            self.steps, acts, others, disagreement, means, strict=True
        ):
            largest = max(largest, mean)
            if acting and step.stage == 0:
                before, now = now, row
                seen = max(seen, mean)
                if 1 - seen > 2 * (1 - largest):
                    raise ValueError(
                        f"Adaptive: save is {save:g}; allowed is None where guidance begins at "
                        f"sigma {step.sigma:.4g}: the cosine of {space} was larger before, where "
                        "it is not looked at"
                    )
            if acting and before is not None and not pinned:
                rows.append(before)
        anyway = sum(not (acting or pinned) for acting, pinned in zip(acts, others, strict=True))

        def saved(log: float) -> float:
            share = sum(_share_below(row, log) for row in rows)
            return (anyway + share) / (branches * count)

        low, high = math.log(1e-9), math.log(1.999)  # 2 is where nothing is known
        least, most = saved(-math.inf), saved(high)
        if not least < save <= most:
            above = f"above {least:.3g}, which is saved without it, and " if least else ""
            if least >= most:
                above = f"None, since {least:.3g} is saved without it: "
            raise ValueError(
                f"Adaptive: save is {save:g}; allowed is {above}at most {most:.3g} in {count} "
                "evaluations, the first of which is always guided"
                + (", as are those that other terms guide" if any(others) else "")
            )
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if saved(middle) >= save else (middle, high)
        return 1 - float(f"{math.exp(high):.4g}")

    def radius(
        self, quantile: float, momentum: float, reference: Reference, acts: Sequence[bool]
    ) -> float:
        """A quantile of the gap's root mean square, with momentum.

        It is over prompts and those evaluations at which the term acts.
        """
        kept: Tensor | float = 0.0
        before: Tensor | float = 0.0
        sizes = []
        for step, acting, (_, gaps) in zip(self.steps, acts, self._vectors(), strict=True):
            if not acting:
                continue
            if step.stage == 0:
                before = kept
            gap = gaps[self._place(reference)]
            now = gap + momentum * before
            if step.stage == 0:
                kept = now
            sizes.append(now.norm(dim=1) / math.sqrt(now.shape[1]))
        return float(torch.cat(sizes).quantile(quantile))

    def effective(self, term: Term, over: Sequence[bool] | None = None) -> float:
        """The effective scale of a term, the mean over evaluations and prompts.

        Args:
            over: the evaluations that count; all of them by default.

        Raises:
            ValueError: it depends on more than a profile has.
        """
        values = self.each(term)
        counted = [v for i, v in enumerate(values) if over is None or over[i]]
        return sum(counted) / len(counted)

    def each(self, term: Term) -> list[float]:
        """The effective scale of a term at each evaluation, the mean over prompts.

        The term is asked itself, on vectors that have the measured sizes and angles.

        Raises:
            ValueError: it depends on more than those.
        """
        if not term.by_products:
            raise reject("Match", "method", type(term).__name__, "CFG or APG, whose effect follows "
                         "from what a profile has")  # fmt: skip
        if isinstance(term, APG):  # the vectors have fewer elements
            radius = term.radius(self.numel) / math.sqrt(self.numel)
            term = term.replace(rescale_rms=radius)
        term = term.replace(scale=one_number(term.when))
        denoiser = Denoiser(term, len(PLACES), diagnose=True)
        scales: list[float] = []
        for step, (positive, gaps) in zip(self.steps, self._vectors(), strict=True):
            here = {POSITIVE: positive, NEGATIVE: positive - gaps[self._place(Negative())]}
            assert term.reference is not None
            here[term.reference.branch()] = positive - gaps[self._place(term.reference)]
            q = Query(torch.zeros_like(positive), step)

            def network(
                q: Query, requests: Asked, here: dict[Branch, Tensor] = here
            ) -> dict[Branch, Prediction]:
                read = Readout(0.0, 1.0)
                return {b: Prediction(q.x, here[b], read).rows(r) for b, r in requests.items()}

            diagnosis = denoiser(q, network).record.diagnosis
            assert diagnosis is not None
            scales.append(sum(diagnosis.effective_scale) / len(PLACES))
        return scales

    def _place(self, reference: Reference) -> int:
        return next(i for i, gap in enumerate(self.track.gaps) if gap is self.gap(reference))

    def _vectors(self) -> list[tuple[Tensor, list[Tensor]]]:
        """For each step D_c and the gaps (P, elements) of prompts with small to large gaps.

        Vectors with the measured cosines need as many elements as there are of them, however many
        the latents have.
        """
        count = len(self.steps)
        values, vectors = torch.linalg.eigh(self.track.products)
        rows = vectors * values.clamp_min(0).sqrt()
        # Rounding left some not quite possible; where there is no gap its direction is 0.
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        rows = rows * math.sqrt(rows.shape[1])
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
    a, b, here = (math.log(max(e, 1e-6)) for e in (low.effective, high.effective, effective))
    share = (here - a) / max(b - a, 1e-12)

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


def one_number(scale: Scale) -> Scale:
    """A scale that is the same for all images, their mean, and does not depend on what is seen."""
    if isinstance(scale, Adaptive):
        return one_number(scale.scale)
    if isinstance(scale, Gate):
        return scale.replace(scale=one_number(scale.scale))
    if isinstance(scale, PerImage):
        return Constant(sum(scale.scales) / len(scale.scales))
    if isinstance(scale, Custom):
        return Custom(lambda step: one_number(as_scale(scale, scale.function(step))))
    return scale


def values_of(scale: Scale, steps: Sequence[Step]) -> list[float]:
    """Its mean over images at each evaluation; later stages have that of their step."""
    scale, found = one_number(scale), list[float]()
    for step in steps:
        first = step.stage == 0 or not found
        found.append(scale.at(step, State(1))[0] if first else found[-1])
    return found


def _log(disagreement: Tensor) -> Tensor:
    return disagreement.clamp_min(1e-9).log()


def _share_below(quantiles: Tensor, log: float) -> float:
    """The share of prompts whose disagreement is at most ``exp(log)``."""
    values = _log(quantiles).tolist()
    return 0.0 if log < values[0] else between(log, values, LEVELS)
