"""A guider bound to a batch: plan, ask the network, combine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .answers import Answers
from .config import intents
from .context import Context
from .guider import Gradient, Guider, Term
from .levels import Step
from .noise import Noise
from .predictions import Prediction, Query
from .record import Diagnosis, Record
from .reference import NEGATIVE, POSITIVE, Branch
from .state import State
from .vectors import cosine, differentiable, per_image, put, take, working


class NotFiniteError(RuntimeError):
    """A prediction has NaN or infinite numbers."""


Requests = Mapping[Branch, Sequence[int]]
Network = Callable[[Query, Requests], Mapping[Branch, Prediction]]
"""``network(q, requests)`` evaluates each branch for the images asked for.

``requests`` maps a branch to ascending image numbers; the answer maps it to a ``Prediction`` of
those rows. All of them can be one forward.
"""


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
    asked: dict[Branch, list[int]] = field(default_factory=dict)  # positions within ``rows``
    gains: list[float] = field(default_factory=list)

    @property
    def active(self) -> list[int]:
        """Positions within ``rows`` that are guided at this step."""
        off = self.term.off
        return [i for i, scale in enumerate(self.scales) if scale != off and self.gains[i] != 0]

    def scale(self, position: int) -> float:
        """With what the reference makes of it."""
        scale, gain, off = self.scales[position], self.gains[position], self.term.off
        return scale if gain == 1 else off + (scale - off) * gain

    def images(self, positions: Sequence[int]) -> list[int]:
        return [self.rows[position] for position in positions]

    def read_scales(self, step: Step) -> None:
        when = self.term.when
        scales = when.at(step, self.state)
        if not isinstance(scales, list) or len(scales) != len(self.rows):
            raise ValueError(
                f"{type(when).__name__}.at gave {scales!r}; allowed is a list of "
                f"{len(self.rows)} numbers, one for each image"
            )
        self.scales = scales


@dataclass
class _Group:
    """A guider for the images ``rows`` of the batch."""

    guider: Guider
    rows: list[int]
    slots: list[_Slot]


class Denoiser:
    """A guider for ``batch`` images and one run; it holds the run's memory.

    Args:
        guiders: one for all images, or several: one for each image, or for each prompt of several
            images, in order.
        batch: number of images.
        context: what methods may ask of the pipeline.
        diagnose: evaluate the negative branch at every step and keep a ``Diagnosis``; what is
            evaluated for that alone is not counted.

    Raises:
        ValueError: the number of guiders does not divide the batch.
    """

    def __init__(
        self,
        guiders: Guider | Sequence[Guider],
        batch: int,
        context: Context | None = None,
        diagnose: bool = False,
    ) -> None:
        listed = [guiders] if isinstance(guiders, Guider) else list(guiders)
        share, rest = divmod(batch, len(listed))
        if rest or not share:
            raise ValueError(
                f"guiders: {len(listed)} for a batch of {batch} images; allowed is one, one for "
                "each image, or one for each prompt"
            )
        if left := intents(listed):
            raise ValueError(
                f"guider has {', '.join(left)}, which a profile of the model says in numbers; "
                "allowed after resolve(guider, profile, steps)"
            )
        self.batch = batch
        self._diagnose, self._noise = diagnose, Noise(context)
        self._groups = []
        self._step: Step | None = None
        self._blank: set[int] = set()
        self._number = -1  # of the solver step
        self._paid: dict[Branch, set[int]] = {}
        self._again: list[int] = []
        self._outer = False
        self._pending: tuple[Step, list[tuple[str, Tensor]]] | None = None
        for number, guider in enumerate(listed):
            rows = list(range(number * share, (number + 1) * share))
            slots = [
                _Slot(term, rows, State(share, term.off, rows, context)) for term in guider.terms
            ]
            # Gradients come last: they see what the other terms do.
            slots.sort(key=lambda slot: isinstance(slot.term, Gradient))
            self._groups.append(_Group(guider, rows, slots))

    @property
    def _slots(self) -> list[_Slot]:
        return [slot for group in self._groups for slot in group.slots]

    def memory(self) -> dict[str, Tensor]:
        """What the methods keep from step to step, by name: tensors with a row for each image."""
        return {name: kept for slot in self._slots for name, kept in slot.state.all().items()}

    def plan(self, step: Step, x: Tensor | None = None) -> dict[Branch, list[int]]:
        """The images for which each branch will be asked at this step, before any network call.

        The later stages of a solver step keep the decision of the first. Images whose output is
        zero at this step are asked for nothing.

        Args:
            x: the latents (B, ...), where they are known already; acceleration looks at them.

        Raises:
            NotFiniteError: the evaluation before gave a number that is not finite.
        """
        self.finish()
        self._number += step.stage == 0 or self._number < 0
        self._step, self._blank = step, self._zeroed(step)
        blank = self._blank
        wanted: dict[Branch, set[int]] = {POSITIVE: set(range(self.batch)) - blank}
        for slot in self._slots:
            slot.state.begin(step)
            if step.stage == 0 or not slot.scales:
                slot.read_scales(step)
            reference, off = slot.term.reference, slot.term.off
            on = [scale for scale in slot.scales if scale != off]
            if reference is not None and not reference.admits(step, on):
                slot.scales = [off] * len(slot.rows)
            slot.gains = [0.0 if image in blank else 1.0 for image in slot.rows]
            slot.asked = {}
            if slot.active and reference is not None:
                asked = reference.asks(step, slot.state, slot.active)
                slot.asked = {branch: list(rows) for branch, rows in asked.items() if rows}
                for branch, positions in slot.asked.items():
                    wanted.setdefault(branch, set()).update(slot.images(positions))
        self._paid, self._again = {branch: set(images) for branch, images in wanted.items()}, []
        if self._diagnose:
            wanted.setdefault(NEGATIVE, set()).update(set(range(self.batch)) - blank)
        return {branch: sorted(images) for branch, images in wanted.items()}

    def most(self, requests: Requests) -> dict[Branch, list[int]]:
        """What ``plan`` asked for, and what may be once the positive prediction is known."""
        assert self._step is not None, "there was no plan"
        most = {branch: list(images) for branch, images in requests.items()}
        for slot in self._slots:
            if slot.active and slot.term.reference is not None:
                asked = slot.term.reference.most(self._step, slot.state, slot.active)
                for branch, positions in asked.items():
                    most[branch] = sorted({*most.get(branch, ()), *slot.images(positions)})
        return most

    def pay(self, branch: Branch, images: Sequence[int], again: bool = False) -> None:
        """Count evaluations that were not planned, or that were made ``again``; once each."""
        if again:
            self._again += images
        else:
            self._paid.setdefault(branch, set()).update(images)

    @property
    def blank(self) -> list[int]:
        """The images whose output is zero at the step that was planned."""
        return sorted(self._blank)

    @property
    def through_network(self) -> bool:
        """Will a term of the step that was planned differentiate what the network says?"""
        return any(
            slot.active and isinstance(slot.term, Gradient) and slot.term.through_network
            for slot in self._slots
        )

    def tell(
        self, x: Tensor, step: Step, name: str, embedding: Tensor, images: Sequence[int]
    ) -> Tensor:
        """What the network is told in place of the positive condition's ``embedding``.

        Args:
            x: the latents (B, ...) of the whole batch.
            name: the argument's.
            embedding: (images, ...).
            images: whose it is.
        """
        for group in self._groups:
            chosen = [i for i, image in enumerate(images) if image in group.rows]
            for number, prepare in enumerate(group.guider.prepares):
                if prepare.tells and chosen:
                    part = take(embedding, chosen)
                    noise = self._noise.like(
                        part, x, [images[i] for i in chosen], f"{name} {number} {self._number}"
                    )
                    embedding = put(embedding, chosen, prepare.tell(step, part, noise))
        return embedding

    @property
    def tells(self) -> bool:
        """Does ``tell`` ever change anything?"""
        return any(prepare.tells for group in self._groups for prepare in group.guider.prepares)

    def __call__(self, q: Query, network: Network) -> Guided:
        """Evaluate what the plan asks for, and combine it.

        Args:
            q: latents (B, ...) as the network sees them, and the step.
            network: see ``Network``.
        """
        requests = self.plan(q.step, q.x)
        if self.through_network:
            q = q.watched()
        answers = Answers()
        with differentiable(q.watch is not None):
            if wanted := {branch: rows for branch, rows in requests.items() if rows}:
                answers.add(wanted, network(q, wanted))
            if more := self.follow(q, answers):
                answers.add(more, network(q, more))
        return self.combine(q, answers)

    def follow(self, q: Query, answers: Answers) -> dict[Branch, list[int]]:
        """What else is needed, now that the positive prediction is known; what ``plan`` asked for
        is not in it."""
        wanted: dict[Branch, set[int]] = {}
        for slot in self._slots:
            reference, active = slot.term.reference, slot.active
            if not active or reference is None or not reference.needs_positive:
                continue
            images = slot.images(active)
            positive = answers.of(POSITIVE, images)
            told = reference.follow(q.rows(images), positive, slot.state.view(active))
            for branch, rows in told.asked.items():
                positions = [active[row] for row in rows]
                slot.asked.setdefault(branch, []).extend(positions)
                self.pay(branch, slot.images(positions))
                there = set(answers.images(branch))
                missing = {i for i in slot.images(positions) if i not in there}
                if missing:
                    wanted.setdefault(branch, set()).update(missing)
            if told.gains is not None:
                for position, gain in zip(active, told.gains, strict=True):
                    slot.gains[position] = float(gain)
        return {branch: sorted(images) for branch, images in wanted.items()}

    def combine(self, q: Query, answers: Answers) -> Guided:
        """What is left to do where the answers to a step's plan came one by one.

        Args:
            q: as for a call.
            answers: for each branch that was asked for, the predictions of its images.
        """
        # Does somebody differentiate through the run? Then the graph is theirs as well.
        self._outer = torch.is_grad_enabled()
        with differentiable(q.watch is not None):
            return self._combine(q, answers)

    def _combine(self, q: Query, answers: Answers) -> Guided:
        watched = answers.all(POSITIVE, self.batch, q)
        # Only gradients need the graph of this step; what others keep of it would keep all of it.
        graph = q.watch is None or self._outer
        positive = watched if graph else watched.detach()
        cosines: list[Tensor] = []
        checks = [
            (f"the network's {branch} prediction", answers.raw(branch)) for branch in answers.asked
        ]
        output = positive.output
        for group in self._groups:
            total: Tensor | None = None
            touched: set[int] = set()
            unknown = torch.full((len(group.rows),), math.nan, device=q.x.device)
            by_term: list[Tensor] = []
            for slot in group.slots:
                by_term.append(unknown)
                if not (active := slot.active):
                    continue
                images = slot.images(active)
                seen, p = q.rows(images), positive.rows(images)
                state = slot.state.view(active)
                if slot.term.reference is None:
                    p = watched.rows(images)
                    r = p if total is None else _moved(p, take(total, active))
                else:
                    place = {position: row for row, position in enumerate(active)}
                    parts = {
                        branch: [(place[i], slot.rows[i]) for i in where if i in place]
                        for branch, where in slot.asked.items()
                    }
                    answer = answers.assemble(p, parts)
                    answer = answer if graph else answer.detach()
                    r = slot.term.reference.read(seen, p, answer, state)
                    slot.term.when.observe(seen, p, r, state)
                    similar = cosine(p.x0.detach(), r.x0.detach()).to(unknown.dtype)
                    by_term[-1] = put(unknown, active, similar)
                scales = [slot.scale(i) for i in active]
                delta = slot.term.delta(seen, p, r, per_image(scales, working(seen.x)), state)
                if not isinstance(delta, Tensor) or delta.shape != p.output.shape:
                    what = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
                    raise ValueError(
                        f"{type(slot.term).__name__}.delta gave {what}; allowed is a tensor of "
                        f"shape {tuple(p.output.shape)}"
                    )
                checks.append((f"what {slot.term} makes of it", delta))
                if total is None:
                    total = delta.new_zeros((len(group.rows), *delta.shape[1:]))
                total = put(total, active, take(total, active) + delta)
                touched.update(active)
            cosines.append(torch.stack(by_term, dim=1))
            if total is not None:
                local = sorted(touched)
                images = [group.rows[i] for i in local]
                new = self._finish(
                    q.rows(images), positive.rows(images), take(total, local), group.guider
                )
                output = put(output, images, new)
        if self._blank:
            blank = sorted(self._blank)
            output = put(output, blank, torch.zeros_like(take(output, blank)))
        self._watch(q.step, [*checks, ("the guided prediction", output)])
        return Guided(output, positive, self._record(q, answers, output, cosines))

    def finish(self) -> None:
        """Look at the numbers of the evaluation before.

        That is done an evaluation late, so that a GPU need not wait; call it after the last one.

        Raises:
            NotFiniteError: one of them is not finite; it names the step and what gave it.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, checks = pending
        finite = torch.stack([good for _, good in checks]).tolist()
        for (what, _), good in zip(checks, finite, strict=True):
            if not good:
                raise NotFiniteError(
                    f"{what} at step {step.index} (sigma {step.sigma:.4g}) has NaN or infinite "
                    "numbers; the run is stopped"
                )

    def _watch(self, step: Step, checks: Sequence[tuple[str, Tensor]]) -> None:
        device = checks[0][1].device
        flags = [(what, value.detach().isfinite().all().to(device)) for what, value in checks]
        self._pending = step, flags

    def _zeroed(self, step: Step) -> set[int]:
        """The images whose output is zero at this step."""
        return {
            row
            for group in self._groups
            if any(prepare.blank(step, self._number) for prepare in group.guider.prepares)
            for row in group.rows
        }

    def _record(self, q: Query, answers: Answers, output: Tensor, cosines: list[Tensor]) -> Record:
        scales = [
            tuple(slot.scale(i) for slot in group.slots)
            for group in self._groups
            for i in range(len(group.rows))
        ]
        acting = {image for slot in self._slots for image in slot.images(slot.active)}
        diagnosis = None
        everyone = range(self.batch)
        if self._diagnose and answers.images(POSITIVE):
            c, u = answers.all(POSITIVE, self.batch, q), answers.all(NEGATIVE, self.batch, q)
            diagnosis = Diagnosis.of(q.step, c, u, output, sorted(self._blank))
        evaluations = [
            sum(i in paid for paid in self._paid.values()) + self._again.count(i) for i in everyone
        ]
        return Record(
            q.step.index, q.step.stage, q.step.sigma, scales, evaluations, cosines,
            [image in acting for image in everyone], diagnosis,
        )  # fmt: skip

    @staticmethod
    def _finish(q: Query, positive: Prediction, delta: Tensor, guider: Guider) -> Tensor:
        """Back to the network's output, never through x0, so that a zero delta is exact."""
        if not positive.readout.gain:  # at this level x0 does not depend on the output
            return positive.output
        guided = _moved(positive, delta)
        for post in guider.posts:
            guided = Prediction(q.x, post(q, positive, guided), positive.readout)
        return guided.output.to(positive.output.dtype)


def _moved(prediction: Prediction, delta: Tensor) -> Prediction:
    """The prediction whose clean image is ``delta`` (B, ...) further."""
    output = working(prediction.output)
    if prediction.readout.gain:
        output = output + delta / prediction.readout.gain
    return Prediction(prediction.x, output, prediction.readout)


def foresee(
    guiders: Guider | Sequence[Guider], steps: Sequence[Step], batch: int
) -> list[dict[Branch, list[int]]]:
    """What each step would ask for (see ``Network``) if nothing were learnt on the way.

    This is the most that a run can cost: what a guider learns can only make it ask for less.
    """
    denoiser = Denoiser(guiders, batch)
    return [denoiser.most(denoiser.plan(step)) for step in steps]
