"""A guider bound to a batch: plan, ask the network, combine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .guider import Guider, Term
from .reference import POSITIVE, Branch
from .state import State
from .types import Prediction, Query, Step, cosine, per_image, put, take, working

Requests = Mapping[Branch, Sequence[int]]
Network = Callable[[Query, Requests], Mapping[Branch, Prediction]]
"""``network(q, requests)`` evaluates each branch for the images asked for.

``requests`` maps a branch to ascending image numbers; the answer maps it to a ``Prediction`` of
those rows. All of them can be one forward.
"""


@dataclass
class Record:
    """What happened at one evaluation.

    Attributes:
        index, stage, sigma: where, see ``Step``.
        scales: for each image, the scale of each term of its guider.
        evaluations: for each image, the network evaluations it was given.
    """

    index: int
    stage: int
    sigma: float
    scales: list[tuple[float, ...]]
    evaluations: list[int]
    _cosine: Tensor = field(repr=False)

    @property
    def cosine(self) -> list[float]:
        """For each image the cosine of both predictions in x0; nan where it was not guided."""
        return self._cosine.tolist()

    @property
    def skipped(self) -> list[int]:
        """The images that were not guided."""
        return [i for i, scales in enumerate(self.scales) if all(s == 1.0 for s in scales)]


@dataclass(frozen=True)
class Guided:
    """The answer to a query: the guided network output (B, ...) in the network's own type."""

    output: Tensor
    positive: Prediction
    record: Record

    @property
    def x0(self) -> Tensor:
        p = self.positive
        return p.readout.x0(p.x, self.output)


@dataclass
class _Slot:
    """A term acting on the images ``rows`` of the batch."""

    term: Term
    rows: list[int]
    state: State
    scales: list[float] = field(default_factory=list)

    @property
    def active(self) -> list[int]:
        """Positions within ``rows`` that are guided at this step."""
        return [i for i, scale in enumerate(self.scales) if scale != 1.0]


class Denoiser:
    """A guider for ``batch`` images and one run; it holds the run's memory.

    Args:
        guiders: one for all images, or several: one for each image, or for each prompt of several
            images, in order.
        batch: number of images.

    Raises:
        ValueError: the number of guiders does not divide the batch.
    """

    def __init__(self, guiders: Guider | Sequence[Guider], batch: int) -> None:
        listed = [guiders] if isinstance(guiders, Guider) else list(guiders)
        share, rest = divmod(batch, len(listed))
        if rest or not share:
            raise ValueError(
                f"guiders: {len(listed)} for a batch of {batch} images; allowed is one, one for "
                "each image, or one for each prompt"
            )
        self.batch = batch
        self._groups = []
        for number, guider in enumerate(listed):
            rows = list(range(number * share, (number + 1) * share))
            slots = [_Slot(term, rows, State(share)) for term in guider.terms]
            self._groups.append((guider, rows, slots))

    @property
    def _slots(self) -> list[_Slot]:
        return [slot for *_, slots in self._groups for slot in slots]

    def plan(self, step: Step) -> dict[Branch, list[int]]:
        """The images for which each branch will be asked at this step, before any network call.

        The later stages of a solver step keep the decision of the first.
        """
        wanted: dict[Branch, set[int]] = {}
        for slot in self._slots:
            slot.state.begin(step)
            if step.stage == 0 or not slot.scales:
                slot.scales = slot.term.when.at(step, slot.state)
                if not isinstance(slot.scales, list) or len(slot.scales) != len(slot.rows):
                    raise ValueError(
                        f"{type(slot.term.when).__name__}.at gave {slot.scales!r}; allowed is a "
                        f"list of {len(slot.rows)} numbers, one for each image"
                    )
            if slot.active:
                images = wanted.setdefault(slot.term.reference.branch(), set())
                images.update(slot.rows[i] for i in slot.active)
        requests = {branch: sorted(images) for branch, images in wanted.items()}
        return {POSITIVE: list(range(self.batch))} | requests

    def __call__(self, q: Query, network: Network) -> Guided:
        """Evaluate what the plan asks for, and combine it.

        Args:
            q: latents (B, ...) as the network sees them, and the step.
            network: see ``Network``.
        """
        requests = self.plan(q.step)
        return self.combine(q, requests, network(q, requests))

    def combine(self, q: Query, requests: Requests, answers: Mapping[Branch, Prediction]) -> Guided:
        """What is left to do where the answers to a step's plan came one by one.

        Args:
            q: as for a call.
            requests: what ``plan`` gave, or more.
            answers: for each branch of ``requests``, the prediction of its images.
        """
        positive = answers[POSITIVE]
        places = {b: {image: i for i, image in enumerate(images)} for b, images in requests.items()}
        agreement = torch.full((self.batch,), math.nan, device=q.x.device)
        output = positive.output
        for guider, rows, slots in self._groups:
            total: Tensor | None = None
            touched: set[int] = set()
            for slot in slots:
                images = [slot.rows[i] for i in slot.active]
                if not images:
                    continue
                branch = slot.term.reference.branch()
                seen, p = q.rows(images), positive.rows(images)
                r = answers[branch].rows([places[branch][i] for i in images])
                state = slot.state.view(slot.active)
                scales = per_image([slot.scales[i] for i in slot.active], working(seen.x))
                delta = slot.term.delta(seen, p, r, scales, state)
                if not isinstance(delta, Tensor) or delta.shape != p.output.shape:
                    what = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
                    raise ValueError(
                        f"{type(slot.term).__name__}.delta gave {what}; allowed is a tensor of "
                        f"shape {tuple(p.output.shape)}"
                    )
                slot.term.when.observe(seen, p, r, state)
                similarity = cosine(p.x0.detach(), r.x0.detach()).to(agreement.dtype)
                agreement = put(agreement, images, similarity)
                if total is None:
                    total = delta.new_zeros((len(rows), *delta.shape[1:]))
                local = slot.active
                total = put(total, local, take(total, local) + delta)
                touched.update(local)
            if total is not None:
                local = sorted(touched)
                images = [rows[i] for i in local]
                new = self._finish(
                    q.rows(images), positive.rows(images), take(total, local), guider
                )
                output = put(output, images, new)
        evaluations = [
            sum(image in images for images in places.values()) for image in range(self.batch)
        ]
        scales_by_image = [
            tuple(slot.scales[i] for slot in slots)
            for _, rows, slots in self._groups
            for i in range(len(rows))
        ]
        record = Record(
            q.step.index, q.step.stage, q.step.sigma, scales_by_image, evaluations, agreement
        )
        return Guided(output, positive, record)

    @staticmethod
    def _finish(q: Query, positive: Prediction, delta: Tensor, guider: Guider) -> Tensor:
        """Back to the network's output, never through x0, so that a zero delta is exact."""
        if not positive.readout.gain:  # at this level x0 does not depend on the output
            return positive.output
        output = working(positive.output) + delta / positive.readout.gain
        for post in guider.posts:
            output = post(q, positive, Prediction(q.x, output, positive.readout))
        return output.to(positive.output.dtype)


def foresee(
    guiders: Guider | Sequence[Guider], steps: Sequence[Step], batch: int
) -> list[dict[Branch, list[int]]]:
    """What each step would ask for (see ``Network``) if nothing were learnt on the way.

    This is the most that a run can cost: what a guider learns can only make it ask for less.
    """
    denoiser = Denoiser(guiders, batch)
    return [denoiser.plan(step) for step in steps]
