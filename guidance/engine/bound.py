"""Terms and guiders bound to the images of a batch that they act on, with their memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .answers import Answers
from .guider import Guider, Post, Prepare, Term
from .levels import Step
from .predictions import Prediction, Query
from .reference import POSITIVE, Asked, Branch
from .state import State
from .tensors import on_device, put, take, upcast, wide_type
from .vectors import Numbers, Vector, as_vector, cosine


@dataclass
class BoundTerm:
    """A term acting on the images ``rows`` of the batch.

    Attributes:
        scales: of these images at this step, as the term's ``Scale`` has them.
        factors: to ``scale - off`` of each image, as the references have them; 0 is unguided.
        active: positions within ``rows`` that are guided at this step.
        asked: for each reference the branches that it needs, and for which of these positions.
    """

    term: Term
    rows: list[int]
    state: State
    scales: list[float | Tensor] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    active: list[int] = field(default_factory=list)
    asked: list[dict[Branch, Sequence[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.references = self.term.references

    def images(self, positions: Sequence[int]) -> list[int]:
        return [self.rows[position] for position in positions]

    def plan(self, step: Step, blank: Set[int]) -> list[Asked]:
        """For each reference the images for which it needs each branch."""
        self.state.begin(step)
        if step.stage == 0 or not self.scales:
            self._read_scales(step)
        off = self.term.off
        on = [scale for scale in self.scales if isinstance(scale, float | int) and scale != off]
        for reference in self.references:
            if not reference.admits(step, on):
                self.scales = [off] * len(self.rows)
        self.factors = [0.0 if image in blank else 1.0 for image in self.rows]
        self._activate()
        self.asked = [
            dict(reference.asks(step, self.state, self.active)) if self.active else {}
            for reference in self.references
        ]
        return [self._of_images(asked) for asked in self.asked]

    def at_most(self, step: Step) -> list[Asked]:
        """What each reference may ask for at most at the step that was planned."""
        references = self.references if self.active else ()
        return [self._of_images(r.most(step, self.state, self.active)) for r in references]

    def follow(self, query: Query, answers: Answers) -> list[Asked]:
        """What each reference needs besides, the positive prediction being known."""
        found = []
        for place, reference in enumerate(self.references):
            if not self.active or not reference.needs_positive:
                continue
            active, images = self.active, self.images(self.active)
            positive = answers.of(POSITIVE, images)
            more = reference.follow(query.rows(images), positive, self.state.view(active))
            asked = {branch: [active[row] for row in rows] for branch, rows in more.asked.items()}
            for branch, positions in asked.items():
                self.asked[place][branch] = [*self.asked[place].get(branch, ()), *positions]
            if more.gains is not None:
                for position, factor in zip(active, more.gains, strict=True):
                    self.factors[position] = float(factor)
                self._activate()
            found.append(self._of_images(asked))
        return found

    def strength(self, position: int) -> float | Tensor:
        """The scale of an image, with its factor."""
        scale, factor, off = self.scales[position], self.factors[position], self.term.off
        return scale if factor == 1 else off + (scale - off) * factor

    def scale(self, like: Tensor) -> Any:
        """What the term is given for the images that are guided now, as a tensor (B, ...) is.

        A number where all agree, and a tensor where there is one for each pixel.
        """
        scales = [self.strength(position) for position in self.active]
        if any(isinstance(scale, Tensor) for scale in scales):
            maps = [torch.as_tensor(scale).to(like.device, torch.float32) for scale in scales]
            return torch.stack(torch.broadcast_tensors(*maps))
        if len(set(scales)) == 1:
            return scales[0]
        return Numbers(on_device(tuple(scales), wide_type(like.device), like.device))

    def read(
        self,
        query: Query,
        positive: Prediction,
        answers: Answers,
        graph: bool,
        bind: Callable[[Prediction], Prediction],
    ) -> tuple[Prediction, ...]:
        """The reference predictions of the images that are guided now.

        Args:
            graph: do they keep their gradients?
            bind: writes an answer as the gap to the positive prediction; equal ones share it.
        """
        place, found = {position: row for row, position in enumerate(self.active)}, []
        for reference, asked in zip(self.references, self.asked, strict=True):
            parts = {
                branch: [(place[i], self.rows[i]) for i in positions if i in place]
                for branch, positions in asked.items()
            }
            answer = answers.assemble(positive, parts)
            answer = bind(answer if graph else answer.detach())
            read = reference.read(query, positive, answer, self.state.view(self.active))
            found.append(read if read.origin is positive else read.relative_to(positive))
        return tuple(found)

    def _of_images(self, asked: Asked) -> Asked:
        return {branch: self.images(rows) for branch, rows in asked.items() if len(rows)}

    def _activate(self) -> None:
        off = self.term.off
        pairs = enumerate(zip(self.scales, self.factors, strict=True))
        self.active = [
            i for i, (scale, factor) in pairs
            if factor != 0 and (isinstance(scale, Tensor) or scale != off)
        ]  # fmt: skip

    def _read_scales(self, step: Step) -> None:
        when = self.term.when
        scales = when.at(step, self.state)
        if not isinstance(scales, list) or len(scales) != len(self.rows):
            raise ValueError(
                f"{type(when).__name__}.at gave {scales!r}; allowed is a list of "
                f"{len(self.rows)} numbers, one for each image"
            )
        self.scales = [*scales]


@dataclass
class Change:
    """What a term makes of its predictions, for the images at ``positions`` of its guider."""

    bound: BoundTerm
    positions: list[int]
    vector: Vector
    cosine: Tensor | None  # (positions,), of both predictions in x0


@dataclass
class BoundGuider:
    """A guider for the images ``rows`` of the batch.

    Attributes:
        terms: its own, gradients last.
        prepares: what acts before.
        posts: what acts on the sum, in order, and the memory of each.
    """

    guider: Guider
    rows: list[int]
    terms: list[BoundTerm]
    prepares: tuple[Prepare, ...]
    posts: list[tuple[Post, State]]

    def positive(self, step: Step) -> Branch | None:
        """What is evaluated in place of the positive branch."""
        found = [b for p in self.prepares if (b := p.positive(step)) is not None]
        if len(found) > 1:
            raise ValueError(
                f"{self.guider}: expected one change of the positive branch at a step, got "
                f"{len(found)}"
            )
        return found[0] if found else None

    def guide(
        self,
        query: Query,
        positive: Prediction,
        watched: Prediction,
        answers: Answers,
        cosines: bool = False,
    ) -> tuple[list[int], Tensor | None, list[Change]]:
        """Combine the predictions of one evaluation.

        Args:
            query, positive: of the whole batch.
            watched: the positive prediction with the graph that gradients are taken through.
            cosines: are they asked for, where no gate computes them anyway?

        Returns:
            The images that were guided, the network's output for them, and what each term did.
        """
        changes: list[Change] = []
        seen: dict[tuple[int, ...], Prediction] = {}
        related: dict[int, tuple[Prediction, Prediction]] = {}

        def positive_of(images: list[int]) -> Prediction:
            return seen.setdefault(tuple(images), positive.rows(images))

        def bind(answer: Prediction) -> Prediction:
            _, bound = related.setdefault(id(answer), (answer, answer.relative_to(p)))
            return bound

        for bound in self.terms:
            if not bound.active:
                continue
            images, cosine_here = bound.images(bound.active), None
            r: Any
            here, state = query.rows(images), bound.state.view(bound.active)
            if not bound.references:  # a gradient
                p = watched.rows(images)
                r = self._so_far(p, changes, bound.active)
            else:
                # Equal references of one positive prediction share their gap.
                p = positive_of(images)
                several = bound.read(here, p, answers, positive is watched, bind)
                bound.term.when.observe(here, p, several[0], state)
                if cosines or bound.term.when.observes:
                    cosine_here = cosine(p.x0, several[0].x0).values.detach()
                r = several if len(several) > 1 else several[0]
            delta = bound.term.delta(here, p, r, bound.scale(p.x), state)
            vector = _checked(bound.term, delta, p)
            changes.append(Change(bound, bound.active, vector, cosine_here))
        if not changes:
            return [], None, []
        # The output is that of the network plus a change: never a round trip through x0, so that
        # a change of zero leaves every bit as it is.
        positions, total = self._sum(changes)
        images = [self.rows[position] for position in positions]
        here, p = query.rows(images), positive_of(images)
        guided = p.vector + total / p.readout.gain
        for post, memory in self.posts:
            whole = Prediction(p.x, guided.tensor(), p.readout)
            guided = as_vector(post(here, p, whole, memory.view(positions)))
        output = guided.tensor().to(positive.output.dtype)
        for prediction in seen.values():
            prediction.close()
        return images, output, changes

    def _sum(self, changes: list[Change]) -> tuple[list[int], Vector]:
        """The positions at which any term acts, and the sum of what they do there."""
        first = changes[0]
        if all(change.positions == first.positions for change in changes):
            return first.positions, sum((c.vector for c in changes[1:]), first.vector)
        total = self._nothing(first.vector)
        for change in changes:
            before = take(total, change.positions)
            total = put(total, change.positions, before + change.vector.tensor())
        positions = sorted({position for change in changes for position in change.positions})
        return positions, Vector.of(take(total, positions))

    def _so_far(self, p: Prediction, changes: list[Change], active: list[int]) -> Prediction:
        """The prediction of the positions ``active`` as the terms before have it."""
        if not changes:
            return p
        positions, total = self._sum(changes)
        change = total.tensor()
        if positions != active:
            change = take(put(self._nothing(total), positions, change), active)
        return Prediction(p.x, upcast(p.output) + change / p.readout.gain, p.readout)

    def _nothing(self, like: Vector) -> Tensor:
        tensor = like.tensor()
        return tensor.new_zeros((len(self.rows), *tensor.shape[1:]))


def _checked(term: Term, delta: object, positive: Prediction) -> Vector:
    if isinstance(delta, Tensor) and delta.shape == positive.output.shape:
        return Vector.of(delta)
    if not isinstance(delta, Vector):
        what = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
        raise ValueError(
            f"{type(term).__name__}.delta: expected a Vector or a tensor of shape "
            f"{tuple(positive.output.shape)}, got {what}"
        )
    return delta
