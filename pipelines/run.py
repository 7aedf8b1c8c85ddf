"""One run of a pipeline: from its scheduler's ``set_timesteps`` through all its ``step``s.

The pipeline computes ``u + s * (c - u)`` of its two branches. With the guided prediction g in
both of them this is g: bit for bit where they come from one forward, and by writing g into what
the first of two forwards returned. What reaches the scheduler is compared with g before the run
goes on, so that a pipeline that does something else to it is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..guidance import (
    POSITIVE,
    Branch,
    Denoiser,
    Guided,
    Guider,
    Prediction,
    Query,
    Readout,
    Record,
    Step,
)
from ..samplers import readout_at
from .form import Form
from .inputs import Inputs, crop
from .learn import combination, error, sign_of, tolerance

Forward = Callable[..., Any]
NEGATIVE = Branch("negative")


@dataclass
class Turn:
    """One evaluation: from the first call of the denoiser to the scheduler's ``step``.

    Attributes:
        requests: the images for which each branch is needed, see ``guidance.Network``.
        calls: what the denoiser was called with, and what it said, so far.
        answers: the branches evaluated so far.
        whole: the positive branch's output, of which the latents may be a part.
        held: what the first of two forwards returned; g is written into it.
    """

    step: Step
    requests: dict[Branch, list[int]]
    calls: list[tuple[Inputs, Any]] = field(default_factory=list)
    q: Query | None = None
    answers: dict[Branch, Prediction] = field(default_factory=dict)
    whole: Tensor | None = None
    held: Tensor | None = None
    guided: Guided | None = None
    value: Tensor | None = None


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
        around: what the evaluation of another network than the pipeline's goes through.
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
    ) -> None:
        self.form, self.batch, self.doubled = form, batch, doubled
        self.records: list[Record] = [] if records is None else records
        self.learnt: Form | None = None
        self._name, self._scheduler, self._steps, self._shape = name, scheduler, steps, shape
        self._rigid, self._around = rigid, around
        self._denoiser = Denoiser(guider, batch)
        self._turn: Turn | None = None
        self._count = 0
        self._checked: set[bool] = set()
        self._errors: list[tuple[Tensor, float]] = []

    def evaluate(self, forward: Forward, inputs: Inputs) -> Any:
        """Answer one call of the denoiser; ``forward`` is its own ``__call__``."""
        turn = self._turn or self._begin()
        if self.form is None:
            self._expect(
                turn, inputs, {self.batch, 2 * self.batch} if self.doubled else {self.batch}
            )
            result = forward(*inputs.args, **inputs.kwargs)
            turn.calls.append((inputs, result))
            return result
        if self.form.passes == 1 or not self.doubled:
            return self._one_pass(turn, forward, inputs, self.form)
        return self._two_passes(turn, forward, inputs, self.form)

    def control(self, forward: Forward, inputs: Inputs) -> Any:
        """Answer a call of a ControlNet: only the rows that the denoiser will need."""
        turn = self._turn or self._begin()
        rows = 2 * self.batch
        if self.form is None or self.form.passes == 2 or not self.doubled or inputs.rows != rows:
            return forward(*inputs.args, **inputs.kwargs)
        needed = sorted(
            {
                self._offsets(self.form)[branch.condition] + row
                for branch, images in turn.requests.items()
                for row in images
            }
        )
        part = inputs.take(needed)
        result = forward(*part.args, **part.kwargs)
        if len(needed) == rows:
            return result
        return _spread(result, needed, rows)

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
        for found, allowed in self._errors:
            if not found <= allowed:
                raise RuntimeError(self._changed(float(found)))

    def _check(self, turn: Turn, output: Tensor, form: Form) -> None:
        """Is it the guided prediction that reaches the scheduler?

        The first evaluation of each kind, guided and not, is looked at at once, the others when
        the run ends: looking makes a GPU wait.
        """
        assert turn.value is not None
        sent = crop(torch.cat([turn.value] * (len(output) // self.batch)), output.shape[1:])
        found, allowed = error(form.sign * output, sent), tolerance(turn.value.dtype)
        guided = NEGATIVE in turn.requests
        if guided in self._checked:
            self._errors.append((found, allowed))
        elif not found <= allowed:
            raise RuntimeError(self._changed(float(found)))
        self._checked.add(guided)

    def _changed(self, found: float) -> str:
        how = "has another shape" if found == float("inf") else f"differs by {found:.1e}"
        return (
            f"{self._name} changes the guided prediction before it reaches the scheduler (it "
            f"{how}); this pipeline cannot be guided"
        )

    def _begin(self) -> Turn:
        if self._count == len(self._steps):
            raise RuntimeError(
                f"{self._name} evaluates more than the {len(self._steps)} steps that its scheduler "
                "was set to; this pipeline cannot be guided"
            )
        step = self._steps[self._count]
        self._turn = Turn(step, self._denoiser.plan(step))
        if self._rigid and self.doubled:
            rows = self._turn.requests.get(NEGATIVE, [])
            if len(rows) < self.batch:
                raise ValueError(f"{self._name}: {self._rigid}")
        return self._turn

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

    def _one_pass(self, turn: Turn, forward: Forward, inputs: Inputs, form: Form) -> Any:
        self._expect(turn, inputs, {self.batch * (2 if self.doubled else 1)})
        if turn.calls:
            raise RuntimeError(
                f"{self._name} called its denoiser again at step {turn.step.index} (layer-skipping "
                "guidance of its own?); allowed is one call a step"
            )
        self._ask(turn, forward, inputs, self._offsets(form), form)
        value = self._combine(turn)
        return _rewrap(turn.calls[0][1], torch.cat([value, value]) if self.doubled else value)

    def _two_passes(self, turn: Turn, forward: Forward, inputs: Inputs, form: Form) -> Any:
        self._expect(turn, inputs, {self.batch})
        number = len(turn.calls)
        if number > 1:
            raise RuntimeError(
                f"{self._name} called its denoiser {number + 1} times at step {turn.step.index}; "
                "allowed are two calls a step"
            )
        role = "positive" if (number == 0) == form.positive_first else "negative"
        waiting = [b for b in turn.requests if b not in turn.answers]
        if any(branch.condition == role for branch in waiting):
            self._ask(turn, forward, inputs, {role: 0}, form)
        else:  # nothing is needed of this one
            turn.calls.append((inputs, turn.calls[0][1] if turn.calls else None))
        if turn.guided is None and len(turn.answers) == len(turn.requests):
            value = self._combine(turn)
            turn.held = value if turn.held is None else turn.held.copy_(value)
        elif turn.held is None:
            turn.held = torch.zeros_like(inputs.x) if turn.whole is None else _own(turn.whole)
        return _rewrap(turn.calls[-1][1], turn.held)

    def _ask(
        self, turn: Turn, forward: Forward, inputs: Inputs, first: dict[str, int], form: Form
    ) -> None:
        """Evaluate the branches whose condition these inputs hold, from the row ``first`` says.

        One forward for each network, of the rows asked for.
        """
        branches = [branch for branch in turn.requests if branch.condition in first]
        turn.calls.append((inputs, None))
        for model in dict.fromkeys(branch.model for branch in branches):
            mine = [branch for branch in branches if branch.model is model]
            mine.sort(key=lambda branch: first[branch.condition])
            chosen = [first[b.condition] + row for b in mine for row in turn.requests[b]]
            part = inputs.take(chosen)
            result = (self._around(model) if model else forward)(*part.args, **part.kwargs)
            output = _output(result)
            if model is None:
                turn.calls[-1] = (inputs, result)
            if turn.q is None:
                self._shape = common_shape(self._shape, inputs.x.shape[1:], output.shape[1:])
                at = first.get("positive", 0)
                turn.q = Query(crop(inputs.x[at : at + self.batch], self._shape), turn.step)
            start = 0
            for branch in mine:
                images = turn.requests[branch]
                whole = output[start : start + len(images)]
                if form.upcast:
                    whole = whole.float()
                if branch == POSITIVE:
                    turn.whole = whole
                readout = self._readout(branch.prediction_type, turn.step, form)
                x = turn.q.rows(images).x
                turn.answers[branch] = Prediction(x, crop(whole, x.shape[1:]), readout)
                start += len(images)

    def _readout(self, prediction_type: str, step: Step, form: Form) -> Readout:
        readout = readout_at(self._scheduler, step.level, prediction_type)
        return readout if prediction_type else Readout(readout.skip, form.sign * readout.gain)

    def _combine(self, turn: Turn) -> Tensor:
        """The guided prediction in the shape of the network's output, (B, ...)."""
        assert turn.q is not None
        assert turn.whole is not None
        turn.guided = self._denoiser.combine(turn.q, turn.requests, turn.answers)
        value = turn.guided.output
        if value.shape != turn.whole.shape:
            whole = turn.whole.clone()
            crop(whole, value.shape[1:]).copy_(value)
            value = whole
        turn.value = value
        return value

    def _learn(self, turn: Turn, output: Tensor) -> Tensor:
        """Find the form from the first evaluation, and put the guided prediction in its place."""
        outputs = [_output(result) for _, result in turn.calls]
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
        calls, turn.calls = turn.calls, []
        if self.doubled:  # both were evaluated, so both are counted
            turn.requests[NEGATIVE] = list(range(self.batch))
        roles = ["positive", "negative"] if form.positive_first else ["negative", "positive"]
        for (inputs, result), role in zip(calls, roles, strict=False):
            offsets = self._offsets(form) if passes == 1 else {role: 0}
            self._ask(turn, lambda *_, r=result, **__: r, inputs, offsets, form)
        value = form.sign * crop(self._combine(turn), output.shape[1:])
        if not (self.doubled and agree):
            self.form = form
        if self.doubled and not agree:
            self.learnt = form  # order, sign and passes: good for other runs too
        return torch.cat([value] * (len(output) // self.batch))


def common_shape(
    known: Sequence[int] | None, seen: Sequence[int], said: Sequence[int]
) -> tuple[int, ...]:
    """The shape of one image's latents within what the network sees and says."""
    if len(seen) != len(said):
        raise ValueError(
            f"the denoiser returns {tuple(said)} for {tuple(seen)}; allowed is as many dimensions"
        )
    common = tuple(map(min, seen, said))
    if known is not None and len(known) == len(common):
        return tuple(map(min, known, common))
    return common


def _output(result: Any) -> Tensor:
    """The prediction in what a denoiser returns: it, or the first of several."""
    return result if isinstance(result, Tensor) else result[0]


def _own(value: Tensor) -> Tensor:
    """A tensor to write into: a copy where gradients need what is in it."""
    return value.clone() if value.requires_grad else value


def _rewrap(template: Any, value: Tensor) -> Any:
    """``value`` in the form in which the denoiser answers."""
    if isinstance(template, Tensor):
        return value
    if template is None:
        return (value,)
    if isinstance(template, tuple):
        return (value, *template[1:])
    return type(template)(value)


def _spread(value: Any, rows: Sequence[int], total: int) -> Any:
    """The opposite of ``choose``: tensors of ``len(rows)`` rows with zeros for the others."""
    if isinstance(value, Tensor):
        if value.dim() and len(value) == len(rows):
            out = value.new_zeros((total, *value.shape[1:]))
            out[torch.as_tensor(rows, device=value.device)] = value
            return out
        return value
    if isinstance(value, dict):
        spread = {key: _spread(item, rows, total) for key, item in value.items()}
        return type(value)(**spread) if type(value) is not dict else spread
    if isinstance(value, (tuple, list)):
        return type(value)(_spread(item, rows, total) for item in value)
    return value
