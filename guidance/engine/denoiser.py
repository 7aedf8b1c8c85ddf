"""A guider bound to a batch: plan, ask the network, combine."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .answers import Answers
from .bound import BoundGuider, BoundTerm, Change
from .config import intents
from .context import Context
from .finite import Checks, row_sums
from .guider import Gradient, Guider
from .levels import Step
from .noise import Noise
from .predictions import Prediction, Query
from .record import CosinesOfTerm, Diagnosis, Record
from .reference import NEGATIVE, POSITIVE, Asked, Branch
from .state import State
from .tensors import differentiable, put, take

Network = Callable[[Query, Asked], Mapping[Branch, Prediction]]
"""``network(query, asked)`` evaluates each branch for the images asked for.

``asked`` maps a branch to ascending image numbers; the answer maps it to a ``Prediction`` of
those rows. All of them can be one forward.
"""


@dataclass(frozen=True)
class Requests:
    """What a step asks to be evaluated.

    Attributes:
        branches: the images for which each branch is needed.
        at_most: gives those, and what may be asked for once the positive prediction is known.
        blank: the images whose output is zero at this step; they are asked for nothing.
        through_network: is the positive branch to be evaluated with gradients?
        positive_as: by image, what is to be evaluated in place of the positive branch, if anything.
        changes_embedding: is the positive branch to be told ``embedding(...)``?
        embedding: what the network is told in place of the positive condition's: ``(x, name,
            embedding, images)`` to the new one; x (B, ...) are the latents of the whole batch,
            ``name`` that of the argument, the embedding (images, ...).
    """

    branches: dict[Branch, list[int]]
    at_most: Callable[[], dict[Branch, list[int]]] = dict
    blank: list[int] = field(default_factory=list)
    through_network: bool = False
    positive_as: Mapping[int, Branch] = field(default_factory=dict)
    changes_embedding: bool = False
    embedding: Callable[[Tensor, str, Tensor, Sequence[int]], Tensor] | None = None

    def evaluated_as(self, branch: Branch, images: Sequence[int]) -> dict[Branch, list[int]]:
        """What to evaluate for a branch of these images: itself, but for ``positive_as``."""
        if not self.positive_as or branch != POSITIVE:
            return {branch: list(images)}
        found: dict[Branch, list[int]] = {}
        for image in images:
            found.setdefault(self.positive_as.get(image, branch), []).append(image)
        return found


@dataclass(frozen=True)
class Guided:
    """The answer to a query.

    Attributes:
        output: the guided network output (B, ...), in the network's own type.
        sums: of its rows, (B,).
    """

    output: Tensor
    positive: Prediction
    record: Record
    sums: Tensor
    step: Step

    @property
    def x0(self) -> Tensor:
        """The guided clean image (B, ...), in at least float32."""
        return self.positive.readout.x0(self.positive.x, self.output)


Conversation = Generator[Requests, tuple[Query, Answers], Guided]


class Denoiser:
    """A guider for ``batch`` images and one run; it holds the run's memory.

    Args:
        guiders: one for all images, or several: one for each image, or for each prompt of several
            images, in order.
        batch: number of images.
        context: what methods may ask of the pipeline.
        diagnose: evaluate the negative branch at every step and keep a ``Diagnosis``; what is
            evaluated for that alone is not counted.
        cosines: keep each term's cosine of both predictions, which takes a few operations more;
            where a scale looks at it, as ``Adaptive`` does, it is kept anyway.

    Raises:
        ValueError: the number of guiders does not divide the batch.
    """

    def __init__(
        self,
        guiders: Guider | Sequence[Guider],
        batch: int,
        context: Context | None = None,
        diagnose: bool = False,
        cosines: bool = False,
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
        self._diagnose, self._cosines = diagnose, cosines or diagnose
        self._noise, self._checks = Noise(context), Checks()
        self._solver_step = -1
        self._counted: dict[Branch, set[int]] = {}  # evaluations, but for a diagnosis alone
        self._guiders = []
        for number, guider in enumerate(listed):
            rows = list(range(number * share, (number + 1) * share))
            terms = [
                BoundTerm(term, rows, State(share, term.off, rows, context))
                for term in guider.terms
            ]
            # Gradients come last: they see what the other terms do.
            terms.sort(key=lambda bound: isinstance(bound.term, Gradient))
            posts = [(post, State(share, 1.0, rows, context)) for post in guider.posts]
            self._guiders.append(BoundGuider(guider, rows, terms, guider.prepares, posts))
        self._terms = [bound for guider in self._guiders for bound in guider.terms]
        self._through_network = [
            bound
            for bound in self._terms
            if isinstance(bound.term, Gradient) and bound.term.through_network
        ]
        prepares = [prepare for guider in self._guiders for prepare in guider.prepares]
        self._changes_embedding = any(prepare.tells for prepare in prepares)

    def memory(self) -> dict[str, Tensor]:
        """What the methods keep from step to step, by name: tensors with a row for each image."""
        return {
            name: tensor
            for guider in self._guiders
            for state in (*(b.state for b in guider.terms), *(state for _, state in guider.posts))
            for name, tensor in state.all().items()
        }

    def __call__(self, query: Query, network: Network) -> Guided:
        """One guided step of a network.

        Args:
            query: latents (B, ...) as the network sees them, and the step.
            network: see ``Network``.
        """
        answers, conversation = Answers(), self.step(query.step, query.x)
        requests = next(conversation)
        query = query.watched() if requests.through_network else query
        while True:
            asked: dict[Branch, list[int]] = {}
            stands_for = {}
            for branch, images in requests.branches.items():
                for other, rows in requests.evaluated_as(branch, images).items():
                    if rows:
                        asked[other], stands_for[other] = rows, branch
            if asked:
                with differentiable(query.watch is not None):
                    said = network(query, asked)
                for other, prediction in said.items():
                    branch = stands_for[other]
                    answers.add({branch: asked[other]}, {branch: prediction})
            try:
                requests = conversation.send((query, answers))
            except StopIteration as done:
                return done.value

    def step(
        self, step: Step, x: Tensor | None = None, left_out: Sequence[int] = ()
    ) -> Conversation:
        """One guided step: yields what to evaluate, is sent the answers, returns the output.

        Whoever drives it evaluates what is asked for, as it likes, and sends the query and all
        answers so far, until there is nothing more to ask.

        Args:
            x: the latents (B, ...), where they are known already; acceleration looks at them.
            left_out: images that are not evaluated; their output is zero.

        Raises:
            NotFiniteError: an evaluation before gave a number that is not finite.
        """
        requests = self.plan(step, left_out)
        query, answers = yield requests
        if more := self._follow(query, answers):
            query, answers = yield Requests(more)
        return self._combine(requests, query, answers)

    def plan(self, step: Step, left_out: Sequence[int] = ()) -> Requests:
        """What a step asks for, before any network call.

        The later stages of a solver step keep the decision of the first.
        """
        self._checks.look()
        self._solver_step += step.stage == 0 or self._solver_step < 0
        blank, positive_as = set(left_out), dict[int, Branch]()
        for guider in self._guiders:
            if any(prepare.blank(step, self._solver_step) for prepare in guider.prepares):
                blank.update(guider.rows)
            if guider.prepares and (other := guider.positive(step)) is not None:
                positive_as |= dict.fromkeys(guider.rows, other)
            for _, state in guider.posts:
                state.begin(step)

        wanted: dict[Branch, set[int]] = {POSITIVE: set(range(self.batch)) - blank}
        for bound in self._terms:
            for asked in bound.plan(step, blank):
                _add(wanted, asked)
        branches = _ordered(wanted)
        self._counted = wanted
        if self._diagnose:
            branches[NEGATIVE] = branches[POSITIVE]
        return Requests(
            branches,
            lambda: self._at_most(step, branches),
            sorted(blank),
            any(bound.active for bound in self._through_network),
            positive_as,
            self._changes_embedding,
            lambda x, name, embedding, images: self._told(x, step, name, embedding, images),
        )

    def _at_most(self, step: Step, branches: Asked) -> dict[Branch, list[int]]:
        most = {branch: set(images) for branch, images in branches.items()}
        for bound in self._terms:
            for asked in bound.at_most(step):
                _add(most, asked)
        return _ordered(most)

    def _follow(self, query: Query, answers: Answers) -> dict[Branch, list[int]]:
        """What else is needed, now that the positive prediction is known."""
        wanted: dict[Branch, set[int]] = {}
        for asked in (asked for bound in self._terms for asked in bound.follow(query, answers)):
            _add(self._counted, asked)
            for branch, images in asked.items():
                if missing := set(images) - set(answers.images(branch)):
                    _add(wanted, {branch: sorted(missing)})
        return _ordered(wanted)

    def _combine(self, requests: Requests, query: Query, answers: Answers) -> Guided:
        """The guided output of what was answered."""
        # Only gradients need the graph of this step, unless somebody differentiates through the
        # run: what others keep of it would keep all of it.
        graph = query.watch is None or torch.is_grad_enabled()
        with differentiable(query.watch is not None):
            watched = answers.all(POSITIVE, self.batch, query)
            positive = watched if graph else watched.detach()
            output, changes = positive.output, []
            # Where the noise level is zero, x0 does not depend on the output.
            for guider in self._guiders if positive.readout.gain else []:
                images, guided, changed = guider.guide(
                    query, positive, watched, answers, self._cosines
                )
                output = output if guided is None else put(output, images, guided)
                changes += changed
            if requests.blank:
                zeros = torch.zeros_like(take(output, requests.blank))
                output = put(output, requests.blank, zeros)
        sums = row_sums(output)
        # What is not finite is asked for an evaluation later: no graph is kept until then.
        said = [(branch, answers.raw(branch).detach()) for branch in answers.asked]
        made = changes if query.watch is None else []
        self._checks.add(query.step, sums, lambda: _blame(said, made))
        record = self._record(requests, query, answers, output, changes)
        return Guided(output, positive, record, sums, query.step)

    def finish(self) -> None:
        """Look at the numbers of the evaluations so far; call it after the last one.

        ``plan`` looks at what has come from the device meanwhile, so that nobody waits for it.

        Raises:
            NotFiniteError: one of them is not finite; it names the step and what gave it.
        """
        self._checks.look(wait=True)

    def _told(
        self, x: Tensor, step: Step, name: str, embedding: Tensor, images: Sequence[int]
    ) -> Tensor:
        """The positive condition's ``embedding`` as the guiders change it, see ``Requests``."""
        for guider in self._guiders:
            chosen = [i for i, image in enumerate(images) if image in guider.rows]
            for number, prepare in enumerate(guider.prepares):
                if prepare.tells and chosen:
                    part = take(embedding, chosen)
                    mine = [images[i] for i in chosen]
                    of = f"{name} {number} {self._solver_step}"
                    noise = self._noise.like(part, x, mine, of)
                    embedding = put(embedding, chosen, prepare.tell(step, part, noise))
        return embedding

    def _record(
        self,
        requests: Requests,
        query: Query,
        answers: Answers,
        output: Tensor,
        changes: Sequence[Change],
    ) -> Record:
        step, counted = query.step, self._counted
        _add(counted, answers.unasked)
        evaluations, guided = [0] * self.batch, [False] * self.batch
        for images in (*counted.values(), answers.again):
            for image in images:
                evaluations[image] += 1
        for bound in self._terms:
            for position in bound.active:
                guided[bound.rows[position]] = True
        diagnosis = None
        if self._diagnose and answers.images(POSITIVE):
            c, u = (answers.all(b, self.batch, query) for b in (POSITIVE, NEGATIVE))
            diagnosis = Diagnosis.of(step, c, u, output, requests.blank)
        return Record(
            step.index,
            step.stage,
            step.sigma,
            [
                tuple(_number(bound.strength(place)) for bound in guider.terms)
                for guider in self._guiders
                for place in range(len(guider.rows))
            ],
            evaluations,
            [[_cosines_of(bound, changes) for bound in guider.terms] for guider in self._guiders],
            guided,
            diagnosis,
        )


def foresee(
    guiders: Guider | Sequence[Guider], steps: Sequence[Step], batch: int
) -> list[dict[Branch, list[int]]]:
    """What each step would ask for (see ``Network``) if nothing were learnt on the way.

    This is the most that a run can cost: what a guider learns can only make it ask for less.
    """
    denoiser = Denoiser(guiders, batch)
    return [denoiser.plan(step).at_most() for step in steps]


def _add(sets: dict[Branch, set[int]], asked: Asked) -> None:
    for branch, images in asked.items():
        sets.setdefault(branch, set()).update(images)


def _ordered(sets: Mapping[Branch, set[int]]) -> dict[Branch, list[int]]:
    return {branch: sorted(images) for branch, images in sets.items()}


def _number(scale: float | Tensor) -> float:
    """A scale for the record; of one for each pixel the mean, if the host has it."""
    if not isinstance(scale, Tensor):
        return scale
    return float(scale.mean()) if scale.device.type == "cpu" else math.nan


def _cosines_of(bound: BoundTerm, changes: Sequence[Change]) -> CosinesOfTerm:
    """See ``Record.cosines``."""
    change = next((c for c in changes if c.bound is bound), None)
    return len(bound.rows), bound.active, None if change is None else change.cosine


def _blame(said: Sequence[tuple[Branch, Tensor]], changes: Sequence[Change]) -> str:
    """What of an evaluation is not finite."""
    for branch, output in said:
        if not bool(output.isfinite().all()):
            return f"the network's {branch} prediction"
    for change in changes:
        if not change.vector.is_finite():
            return f"what {change.bound.term} makes of it"
    return "the guided prediction"
