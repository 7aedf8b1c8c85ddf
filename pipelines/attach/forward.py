"""Evaluate branches: one forward of a network for all that can share it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...guidance import POSITIVE, Condition, Prediction, Query, Readout, Step
from ...guidance.engine.predictions import Watch
from ...guidance.engine.reference import name_of
from ...guidance.engine.tensors import differentiable, leaf_of, put, take
from ...samplers import readout_at
from ..patch.call_arguments import Inputs, crop
from ..patch.perturb import Changes
from ..patch.weak_models import second_network
from .evaluation import (
    Changed,
    Forward,
    Part,
    StepEvaluation,
    common_shape,
    output_of,
    with_change,
)
from .layouts import Form

SMALL = 1e-5  # a velocity that moves nothing and has a norm


class Forwards:
    """The forwards of one run.

    Args:
        scheduler: the pipeline's.
        batch: number of images.
        shape: of one image's latents, if known.
        around: what every evaluation of a network goes through.

    Attributes:
        result: what the denoiser answered last, for its form.
        output_shape: of one image in it, if known.
    """

    def __init__(
        self,
        scheduler: Any,
        batch: int,
        shape: Sequence[int] | None,
        around: Callable[[Forward], Forward],
    ) -> None:
        self.shape, self.around = shape, around
        self.output_shape: Sequence[int] | None = None
        self.result: Any = None
        self._scheduler, self._batch, self._changes = scheduler, batch, Changes()

    def evaluate_pending(self, now: StepEvaluation, form: Form) -> None:
        """Evaluate what is pending for the prompts that are known, and what the guider asks for on
        seeing that; where nothing is pending any more, the guider has answered.

        One forward for each network, of the rows asked for.
        """
        while now.guided is None:
            for group in now.ready():
                self._forward(now, group, form)
            if now.pending:
                return
            if now.query is None:  # no image was evaluated
                x = self._latents(now)
                now.query = Query(crop(x, self.shape or x.shape[1:]), now.step)
            now.answer()

    def sent(self, now: StepEvaluation, form: Form) -> Tensor:
        """The guided prediction in the shape of the network's output, (B, ...)."""
        assert now.guided is not None
        value = now.guided.output
        if now.positive_output is not None:
            self.output_shape = now.positive_output.shape[1:]
        if self.output_shape is not None and value.shape[1:] != self.output_shape:
            # The latents are its leading part; the rest is as the network said it.
            whole = value.new_zeros((self._batch, *self.output_shape))
            if now.positive_output is not None:
                there = now.answers.images(POSITIVE)
                whole = put(whole, there, now.positive_output.to(whole.dtype)).clone()
            crop(whole, value.shape[1:]).copy_(value)
            value = whole
        if form.renorms and (blank := now.requests.blank):
            value = put(value, blank, take(value, blank) + SMALL)
        now.sent = value
        return value

    def readout(self, prediction_type: str, step: Step, form: Form) -> Readout:
        """How the output of a network is read at a step; "" is the pipeline's own."""
        readout = readout_at(self._scheduler, step.level, prediction_type)
        return readout if prediction_type else Readout(readout.skip, form.sign * readout.gain)

    def _latents(self, now: StepEvaluation) -> Tensor:
        inputs, at = now.prompts.get("positive") or next(iter(now.prompts.values()))
        return inputs.x[at : at + self._batch]

    def _forward(self, now: StepEvaluation, group: list[Part], form: Form) -> None:
        # Take the rows that are asked for, and tell the network what it is told for each.
        how, watched = group[0].how, now.requests.through_network and group[0].branch == POSITIVE
        inputs, _ = now.prompts[group[0].prompts[0]]
        at = now.prompts["positive"][1] if "positive" in now.prompts else 0
        x = inputs.x[at : at + self._batch]
        part = self._inputs_of(now, group, x)
        other = second_network(how.model, now.network, x)
        own = now.forward if other is None else other
        assert own is not None
        called = Changed(self._changes, now.network, part.beside)
        forward = functools.partial(with_change, called, how.change, own)
        with differentiable(watched):
            leaf: Tensor | None = None
            if watched:
                leaf = x if x.requires_grad else leaf_of(x)
                part = part.differentiable(take(leaf, group[0].images))

            # Call it, changed or another one where the branches say so.
            result = self.around(forward)(*part.args, **part.kwargs)
            output = output_of(result)
            if how.model is None and how.change is None and now.calls[-1][1] is None:
                now.calls[-1] = (now.calls[-1][0], result)
                self.result = result
            elif how.model is None and self.result is None:
                self.result = result
            if now.query is None or watched:
                self.shape = common_shape(self.shape, inputs.x.shape[1:], output.shape[1:])
                seen, watch = (x, None) if leaf is None else (leaf, Watch(leaf))
                now.query = Query(crop(seen, self.shape), now.step, watch)

            # Give each branch its rows of the answer.
            start = 0
            for one in group:
                rows = slice(start, start + len(one.images))
                whole = output[rows].float() if form.upcast else output[rows]
                inner = {name: value[rows] for name, value in called.inner.items()}
                self.add(now, one, whole, form, inner, part.x[rows])
                start += len(one.images)
        if leaf is not None and leaf is not x and now.positive_output is not None:
            now.positive_output = now.positive_output.detach()

    def _inputs_of(self, now: StepEvaluation, group: list[Part], x: Tensor) -> Inputs:
        """What the network is called with for these branches, from the pipeline's own call."""
        part = self._told(now, group, [one.how.condition for one in group], x)
        how, images = group[0].how, [image for one in group for image in one.images]
        if how.elsewhere is not None:
            own = part.x
            shape = self.shape or own.shape[1:]
            other = how.elsewhere.at(crop(own, shape), now.step, images)
            moved = own.clone()
            crop(moved, shape).copy_(other)
            part = part.with_x(moved)
        if how.beside is not None:
            beside = self._told(now, group, [how.beside] * len(group), x)
            part = replace(part, beside=beside.with_x(part.x))
        return part

    def add(
        self,
        now: StepEvaluation,
        part: Part,
        whole: Tensor,
        form: Form,
        inner: Mapping[str, Tensor] | None = None,
        seen: Tensor | None = None,
    ) -> None:
        """An answer: what a network said for a branch of some images, (images, ...).

        Args:
            inner: tensors from within the network.
            seen: the latents that it saw, where they were others than the run's.
        """
        assert now.query is not None
        branch, how, images = part.branch, part.how, part.images
        x = now.query.rows(images).x
        mine = crop(whole, x.shape[1:])
        if mine.shape != x.shape:
            raise ValueError(
                f"WeakModel: {name_of(how.model)} answers with the shape {tuple(whole.shape)}; "
                f"allowed is that of the latents, {tuple(x.shape)}"
            )
        if branch == POSITIVE:
            before = now.positive_output
            now.positive_output = whole if before is None else torch.cat([before, whole])
        readout = self.readout(how.prediction_type, now.step, form)
        if how.elsewhere is not None and seen is not None:  # its clean image, at the run's x
            mine, readout = readout.x0(crop(seen, x.shape[1:]), mine), Readout(0.0, 1.0)
        now.answers.add({branch: images}, {branch: Prediction(x, mine, readout, inner or {})})

    def _told(
        self,
        now: StepEvaluation,
        group: list[Part],
        conditions: list[str | Condition],
        x: Tensor,
    ) -> Inputs:
        """The pipeline's call with the rows of these branches, told these conditions."""
        pairs = list(zip(group, conditions, strict=True))
        rows = [(condition, image) for one, condition in pairs for image in one.images]
        named = [c if isinstance(c, str) else "positive" for c, _ in rows]
        inputs, _ = now.prompts[named[0]]
        part = inputs.take(
            [now.prompts[name][1] + image for name, (_, image) in zip(named, rows, strict=True)]
        )
        others = [c if isinstance(c, Condition) else None for c, _ in rows]
        if any(other is not None for other in others):
            part = part.told([None if other is None else other.arguments for other in others])
        mine = [place for place, (condition, _) in enumerate(rows) if condition == "positive"]
        if mine and now.requests.changes_embedding:
            images = [rows[place][1] for place in mine]
            embedding = now.requests.embedding
            assert embedding is not None
            part = part.embedded(mine, lambda name, value: embedding(x, name, value, images))
        return part
