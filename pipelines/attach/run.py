"""One run of a pipeline: from its scheduler's ``set_timesteps`` through all its ``step``s.

The pipeline computes ``u + s * (c - u)`` of its two branches. With the guided prediction g in
both of them this is g: bit for bit where they come from one forward, and by writing g into what
the first of two forwards returned. What reaches the scheduler is compared with g before the run
goes on, so that a pipeline that does something else to it is noticed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...guidance import (
    NEGATIVE,
    POSITIVE,
    Branch,
    Condition,
    Context,
    Denoiser,
    Guider,
    Prediction,
    Query,
    Readout,
    Record,
    Step,
)
from ...guidance.engine.predictions import Watch
from ...guidance.engine.reference import name_of
from ...guidance.engine.tensors import differentiable, leaf_of, put, take
from ...samplers import SADA, Accelerated, readout_at
from ..patch.call_arguments import Inputs, crop
from ..patch.weak_models import second_network
from .arrival import Arrivals
from .evaluation import (
    Forward,
    Turn,
    common_shape,
    forwards,
    output_of,
    owned,
    rewrap,
    role_of,
    spread,
    with_change,
)
from .infer_layout import combination, error, sign_of
from .layouts import Form

SMALL = 1e-5  # a velocity that moves nothing and has a norm


class Run:
    """A guider at work in one run of a pipeline.

    Args:
        name: of the pipeline's class, for messages.
        guider: one, or one for each prompt or image.
        scheduler: the pipeline's.
        form: how the pipeline guides by itself; ``None`` is learnt from the first evaluation.
        steps: every evaluation to come.
        batch: number of images.
        doubled: does the pipeline evaluate its negative branch?
        shape: of one image's latents, if known.
        rigid: why no evaluation may be left out; "" where any may.
        records: to which those of this run are added.
        around: what every evaluation of a network goes through.
        context: what the guider's methods may ask of the pipeline.
        diagnose: see ``guidance.Denoiser``.
        accelerate: see ``samplers.SADA``.
    """

    def __init__(
        self,
        name: str,
        guider: Guider | Sequence[Guider],
        scheduler: Any,
        form: Form | None,
        steps: Sequence[Step],
        batch: int,
        doubled: bool,
        shape: Sequence[int] | None,
        rigid: str = "",
        records: list[Record] | None = None,
        around: Callable[[Forward], Forward] = lambda forward: forward,
        context: Context | None = None,
        diagnose: bool = False,
        accelerate: SADA | None = None,
    ) -> None:
        self.form, self.batch, self.doubled = form, batch, doubled
        self.records: list[Record] = [] if records is None else records
        self.learnt: Form | None = None
        self._name, self._scheduler, self._steps, self._shape = name, scheduler, steps, shape
        self._rigid, self._around = rigid, around
        settings = (guider, batch, context, diagnose)
        self._denoiser = (
            Accelerated(accelerate, self._usual_readout, *settings)
            if accelerate
            else Denoiser(*settings)
        )
        self._answered: Sequence[int] | None = None
        self._controlled: Any = None
        self._said: Any = None  # what the denoiser answered last, for its form
        self._turn: Turn | None = None
        self._count = 0
        self._arrivals: Arrivals | None = None

    def evaluate(self, network: Any, forward: Forward, inputs: Inputs) -> Any:
        """Answer one call of the denoiser ``network``; ``forward`` is its own ``__call__``."""
        turn = self._turn or self._begin(inputs)
        turn.network, turn.forward = network, forward
        if self.form is None:
            self._expect(
                turn, inputs, {self.batch, 2 * self.batch} if self.doubled else {self.batch}
            )
            result = self._around(forward)(*inputs.args, **inputs.kwargs)
            turn.calls.append((inputs, result))
            self._said = result
            return result
        if self.form.passes == 1 or not self.doubled:
            return self._one_pass(turn, inputs, self.form)
        return self._two_passes(turn, inputs, self.form)

    def control(self, forward: Forward, inputs: Inputs) -> Any:
        """Answer a call of a ControlNet: only the rows that the denoiser will need."""
        turn = self._turn or self._begin(inputs)
        if self._controlled is None or any(turn.requests.branches.values()):
            self._controlled = self._control(turn, forward, inputs)
        return self._controlled  # the last one's, where the denoiser is not evaluated either

    def _control(self, turn: Turn, forward: Forward, inputs: Inputs) -> Any:
        rows = 2 * self.batch
        if self.form is None or self.form.passes == 2 or not self.doubled or inputs.rows != rows:
            return forward(*inputs.args, **inputs.kwargs)
        needed = sorted(
            {
                self._offsets(self.form)[role_of(branch)] + row
                for branch, images in turn.requests.at_most.items()
                for row in images
            }
        )
        if not needed or len(needed) == rows:
            return forward(*inputs.args, **inputs.kwargs)
        part = inputs.take(needed)
        result = forward(*part.args, **part.kwargs)
        return spread(result, needed, rows)

    def commit(self, output: Tensor) -> Tensor:
        """What the scheduler is about to step with, checked; the evaluation is over."""
        turn, self._turn = self._turn, None
        if turn is None or not turn.calls:
            return output
        if self.form is None:
            output = self._learn(turn, output)
        elif turn.guided is not None:
            self._check(turn, output, self.form)
        if turn.guided is None:
            raise RuntimeError(
                f"{self._name} did not evaluate its negative branch at step {turn.step.index}, "
                "which the guider needs; to stop guiding early use Interval or Adaptive"
            )
        self.records.append(turn.guided.record)
        self._count += 1
        return output

    def finish(self) -> None:
        """The run is over: what was not yet compared is looked at, all at once."""
        if self._turn is not None and self._turn.calls:
            raise RuntimeError(
                f"{self._name} evaluated its denoiser without a step of its scheduler; this "
                "pipeline cannot be guided"
            )
        self._denoiser.finish()
        if self._arrivals is not None:
            self._arrivals.finish()

    def _check(self, turn: Turn, output: Tensor, form: Form) -> None:
        """Is it the guided prediction that reaches the scheduler?"""
        assert turn.value is not None
        assert turn.guided is not None
        times = len(output) // self.batch
        sent = turn.value if times == 1 else torch.cat([turn.value] * times)
        sent = crop(sent, output.shape[1:])
        if self._arrivals is None:
            self._arrivals = Arrivals(self._name, turn.value.dtype)
        known = sent.shape == turn.guided.output.shape and turn.value is turn.guided.output
        try:
            self._arrivals.compare(
                output if form.sign == 1 else form.sign * output,
                sent,
                turn.guided.sums if known else None,
                bool(turn.answers.images(NEGATIVE)),
                self._count + 1 == len(self._steps),
            )
        except RuntimeError:
            self._denoiser.finish()  # if a number is not finite, this says whose
            raise

    def _begin(self, inputs: Inputs) -> Turn:
        if self._count == len(self._steps):
            raise RuntimeError(
                f"{self._name} evaluates more than the {len(self._steps)} steps that its scheduler "
                "was set to; this pipeline cannot be guided"
            )
        step = self._steps[self._count]
        conversation = self._denoiser.step(step, self._latents(inputs))
        requests = next(conversation)
        waiting = {branch: rows for branch, rows in requests.branches.items() if rows}
        self._turn = Turn(step, requests, conversation, waiting)
        if self._rigid:
            needed = [POSITIVE, NEGATIVE] if self.doubled else [POSITIVE]
            if any(len(requests.branches.get(branch, ())) < self.batch for branch in needed):
                raise ValueError(f"{self._name}: {self._rigid}")
        return self._turn

    def _latents(self, inputs: Inputs) -> Tensor | None:
        """The latents (B, ...) that a call is about; ``None`` while the form is not known."""
        if self.form is None or self._shape is None:
            return None
        at = self._offsets(self.form)["positive"] if inputs.rows == 2 * self.batch else 0
        return crop(inputs.x[at : at + self.batch], self._shape)

    def _offsets(self, form: Form) -> dict[str, int]:
        """The first row of each condition in a doubled forward."""
        other = self.batch if self.doubled else 0
        if form.positive_first:
            return {"positive": 0, "negative": other}
        return {"negative": 0, "positive": other}

    def _expect(self, turn: Turn, inputs: Inputs, rows: set[int]) -> None:
        if inputs.rows not in rows:
            raise RuntimeError(
                f"{self._name} called its denoiser with {inputs.rows} rows for {self.batch} images "
                f"at step {turn.step.index}: it switched its negative branch or its batch in "
                "mid-run, or has further branches; to stop guiding early use Interval or Adaptive"
            )

    def _one_pass(self, turn: Turn, inputs: Inputs, form: Form) -> Any:
        self._expect(turn, inputs, {self.batch * (2 if self.doubled else 1)})
        if turn.calls:
            raise RuntimeError(
                f"{self._name} called its denoiser again at step {turn.step.index} (layer-skipping "
                "guidance of its own?); allowed is one call a step"
            )
        self._hold(turn, inputs, self._offsets(form))
        self._ask(turn, form)
        value = self._combine(turn, form)
        value = torch.cat([value, value]) if self.doubled else value
        return rewrap(self._said, value, _is_named(inputs))

    def _two_passes(self, turn: Turn, inputs: Inputs, form: Form) -> Any:
        self._expect(turn, inputs, {self.batch})
        number = len(turn.calls)
        if number > 1:
            raise RuntimeError(
                f"{self._name} called its denoiser {number + 1} times at step {turn.step.index}; "
                "allowed are two calls a step"
            )
        role = "positive" if (number == 0) == form.positive_first else "negative"
        self._hold(turn, inputs, {role: 0})
        self._ask(turn, form)
        if turn.calls[-1][1] is None and number:
            turn.calls[-1] = (inputs, turn.calls[0][1])
        if turn.guided is not None and turn.value is None:
            value = self._combine(turn, form)
            turn.first = value if turn.first is None else turn.first.copy_(value)
        elif turn.first is None and turn.whole is not None:
            turn.first = owned(turn.whole)
        elif turn.first is None:  # nothing was evaluated for this prompt
            shape = self._answered or self._shape or inputs.x.shape[1:]
            turn.first = inputs.x.new_zeros((self.batch, *shape))
        return rewrap(self._said, turn.first, _is_named(inputs))

    def _hold(self, turn: Turn, inputs: Inputs, first: dict[str, int]) -> None:
        """A call of the denoiser, which has these prompts from these rows on."""
        turn.calls.append((inputs, None))
        turn.held |= {role: (inputs, row) for role, row in first.items()}

    def _ask(self, turn: Turn, form: Form) -> None:
        """Evaluate all that is waiting for one of the prompts that are held, and what the guider
        asks for on seeing that.

        One forward for each network, of the rows asked for.
        """
        while turn.guided is None:
            ready = [branch for branch in turn.waiting if role_of(branch) in turn.held]
            for group in forwards(ready, turn.held, turn.requests.through_network):
                self._forward(turn, group, form)
            if turn.waiting:
                return
            if turn.q is None:  # no image was evaluated
                inputs, at = next(iter(turn.held.values()))
                x = inputs.x[at : at + self.batch]
                turn.q = Query(crop(x, self._shape or x.shape[1:]), turn.step)
            try:
                turn.waiting |= turn.conversation.send((turn.q, turn.answers)).branches
            except StopIteration as done:
                turn.guided = done.value

    def _forward(self, turn: Turn, group: list[Branch], form: Form) -> None:
        """One forward of a network for branches that can share it."""
        inputs, _ = turn.held[role_of(group[0])]
        wanted = {branch: turn.waiting.pop(branch) for branch in group}
        chosen = [turn.held[role_of(b)][1] + row for b, rows in wanted.items() for row in rows]
        at = turn.held["positive"][1] if "positive" in turn.held else 0
        x = inputs.x[at : at + self.batch]
        watched = group == [POSITIVE] and turn.requests.through_network
        part = self._told(turn, inputs.take(chosen), wanted, x)
        leaf: Tensor | None = None
        if watched:
            leaf = x if x.requires_grad else leaf_of(x)
            with differentiable():
                part = part.differentiable(take(leaf, wanted[POSITIVE]))
        model, change = group[0].model, group[0].change
        other = second_network(model, turn.network, x)
        assert turn.forward is not None
        own = turn.forward if other is None else other
        answer = functools.partial(with_change, turn.network, change, own)
        with differentiable(watched):
            result = self._around(answer)(*part.args, **part.kwargs)
            output = output_of(result)
        if model is None and change is None and turn.calls[-1][1] is None:
            turn.calls[-1] = (turn.calls[-1][0], result)
            self._said = result
        if turn.q is None or watched:
            self._shape = common_shape(self._shape, inputs.x.shape[1:], output.shape[1:])
            watch = None if leaf is None else Watch(leaf)
            with differentiable(watched):
                turn.q = Query(crop(x if leaf is None else leaf, self._shape), turn.step, watch)
        start = 0
        for branch, images in wanted.items():
            with differentiable(watched):
                whole = output[start : start + len(images)]
                if form.upcast:
                    whole = whole.float()
                q = turn.q.rows(images)
                mine = crop(whole, q.x.shape[1:])
            if mine.shape != q.x.shape:
                raise ValueError(
                    f"WeakModel: {name_of(model)} answers with the shape {tuple(whole.shape)}; "
                    f"allowed is that of the latents, {tuple(q.x.shape)}"
                )
            if branch == POSITIVE:
                turn.whole = whole.detach() if leaf is not None and leaf is not x else whole
            readout = self._readout(branch.prediction_type, turn.step, form)
            turn.answers.add({branch: images}, {branch: Prediction(q.x, mine, readout)})
            start += len(images)

    def _told(self, turn: Turn, part: Inputs, wanted: dict[Branch, list[int]], x: Tensor) -> Inputs:
        """What the network is told for these branches, where that is not the pipeline's prompts."""
        told: list[Any] = []
        for branch, rows in wanted.items():
            own = branch.condition if isinstance(branch.condition, Condition) else None
            told += [None if own is None else own.arguments] * len(rows)
        if any(one is not None for one in told):
            part = part.told(told)
        if turn.requests.changes_embedding:
            images = [row for rows in wanted.values() for row in rows]
            mine = [
                number
                for number, branch in enumerate(b for b, rows in wanted.items() for _ in rows)
                if branch.condition == "positive"
            ]
            if mine:
                part = part.embedded(
                    mine,
                    lambda name, value: turn.requests.embedding(
                        x, name, value, [images[number] for number in mine]
                    ),
                )
        return part

    def _readout(self, prediction_type: str, step: Step, form: Form) -> Readout:
        readout = readout_at(self._scheduler, step.level, prediction_type)
        return readout if prediction_type else Readout(readout.skip, form.sign * readout.gain)

    def _usual_readout(self, step: Step) -> Readout:
        assert self.form is not None
        return self._readout("", step, self.form)

    def _combine(self, turn: Turn, form: Form) -> Tensor:
        """The guided prediction in the shape of the network's output, (B, ...)."""
        assert turn.guided is not None
        value, there = turn.guided.output, turn.answers.images(POSITIVE)
        if turn.whole is not None:
            self._answered = turn.whole.shape[1:]
        if self._answered is not None and value.shape[1:] != self._answered:
            whole = value.new_zeros((self.batch, *self._answered))
            if turn.whole is not None:
                whole[there] = turn.whole
            crop(whole, value.shape[1:]).copy_(value)
            value = whole
        if form.renorms and (blank := turn.requests.blank):
            value = put(value, blank, take(value, blank) + SMALL)
        turn.value = value
        return value

    def _learn(self, turn: Turn, output: Tensor) -> Tensor:
        """Find the form from the first evaluation, and put the guided prediction in its place."""
        outputs = [output_of(result) for _, result in turn.calls]
        rows = [len(each) for each in outputs]
        if self.doubled and rows == [2 * self.batch]:
            passes, (first, second) = 1, outputs[0].chunk(2)
        elif self.doubled and rows == [self.batch] * 2:
            passes, (first, second) = 2, outputs
        elif not self.doubled and rows == [self.batch]:
            passes, first, second = 1, outputs[0], outputs[0]
        else:
            raise RuntimeError(
                f"{self._name} called its denoiser with {' and '.join(map(str, rows))} rows at "
                f"step {turn.step.index}, for {self.batch} images and a negative branch that is "
                f"{'on' if self.doubled else 'off'}; this pipeline cannot be guided"
            )
        seen = output[: self.batch]
        upcast = output.dtype == torch.float32 and first.dtype != torch.float32
        agree = bool(error(second, first) <= 1e-6)
        form: Form | None = None
        if agree:  # nothing to learn but the sign
            if sign := sign_of(seen, first):
                form = Form(passes, sign=sign, upcast=upcast)
        elif found := combination(seen, first, second):
            form = Form(passes, positive_first=found[1], sign=found[0], upcast=upcast)
        if form is None:
            raise RuntimeError(
                f"{self._name} does not combine its branches as u + s * (c - u) before it steps "
                "its scheduler; this pipeline cannot be guided"
            )
        roles = ["positive", "negative"] if form.positive_first else ["negative", "positive"]
        own: dict[str, Tensor] = {}
        for (inputs, result), role in zip(turn.calls, roles, strict=False):
            offsets = self._offsets(form) if passes == 1 else {role: 0}
            turn.held |= {name: (inputs, row) for name, row in offsets.items()}
            whole = output_of(result)
            own |= {name: whole[row : row + self.batch] for name, row in offsets.items()}
        self._take(turn, own, form)
        self._ask(turn, form)
        value = form.sign * crop(self._combine(turn, form), output.shape[1:])
        if not (self.doubled and agree):
            self.form = form
        if self.doubled and not agree:
            self.learnt = form  # order, sign and passes: good for other runs too
        return torch.cat([value] * (len(output) // self.batch))

    def _take(self, turn: Turn, own: dict[str, Tensor], form: Form) -> None:
        """Use what was evaluated before anybody knew which rows are needed."""
        inputs, at = turn.held["positive"]
        x = inputs.x[at : at + self.batch]
        self._shape = common_shape(self._shape, x.shape[1:], own["positive"].shape[1:])
        turn.q = Query(crop(x, self._shape), turn.step)
        everyone = list(range(self.batch))
        for branch in (POSITIVE, NEGATIVE):
            if (whole := own.get(role_of(branch))) is None:
                continue
            requests = turn.requests
            rows = requests.branches.get(branch, [])
            turn.answers.unasked[branch] = everyone
            if branch == POSITIVE and (requests.through_network or requests.changes_embedding):
                turn.answers.again += rows  # with gradients, or told otherwise
                continue
            turn.waiting.pop(branch, None)
            rows = rows if branch == POSITIVE else everyone
            whole = take(whole.float() if form.upcast else whole, rows)
            if branch == POSITIVE:
                turn.whole = whole
            q, readout = turn.q.rows(rows), self._readout("", turn.step, form)
            mine = Prediction(q.x, crop(whole, q.x.shape[1:]), readout)
            turn.answers.add({branch: rows}, {branch: mine})


def _is_named(inputs: Inputs) -> bool:
    """Is the denoiser asked to answer with a structure, as it does unless told otherwise?"""
    return inputs.kwargs.get("return_dict", True) is not False
