"""One run of a pipeline: from its scheduler's ``set_timesteps`` through all its ``step``s.

The pipeline computes ``u + s * (c - u)`` of its two branches. With the guided prediction g in
both of them this is g: bit for bit where they come from one forward, and by writing g into what
the first of two forwards returned. What reaches the scheduler is compared with g, so that a
pipeline that does something else to it is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...guidance import (
    NEGATIVE,
    POSITIVE,
    Context,
    Denoiser,
    Guider,
    Query,
    Record,
    Step,
)
from ...guidance.engine.tensors import take
from ...samplers import SADA, Accelerated
from ..patch.call_arguments import Inputs, crop
from .arrival import Arrivals
from .evaluation import (
    Forward,
    Part,
    StepEvaluation,
    common_shape,
    output_of,
    owned,
    rewrap,
    spread,
)
from .forward import Forwards
from .infer_layout import infer
from .layouts import Form


@dataclass(frozen=True)
class RunSettings:
    """What a run is.

    Attributes:
        name: of the pipeline's class, for messages.
        guiders: one, or one for each prompt or image.
        scheduler: the pipeline's.
        form: how the pipeline guides by itself; ``None`` is inferred from the first evaluation.
        steps: every evaluation to come.
        batch: number of images.
        doubled: does the pipeline evaluate its negative branch?
        shape: of one image's latents, if known.
        rigid: why no evaluation may be left out; "" where any may.
        context: what the guider's methods may ask of the pipeline.
        diagnose, cosines: see ``guidance.Denoiser``.
        skip: see ``samplers.SADA``.
    """

    name: str
    guiders: Guider | Sequence[Guider]
    scheduler: Any
    form: Form | None
    steps: Sequence[Step]
    batch: int
    doubled: bool
    shape: Sequence[int] | None = None
    rigid: str = ""
    context: Context | None = None
    diagnose: bool = False
    cosines: bool = False
    skip: SADA | None = None


class Run:
    """A guider at work in one run of a pipeline.

    Args:
        settings: what run it is.
        records: to which those of this run are added.
        around: what every evaluation of a network goes through.

    Attributes:
        inferred: the pipeline's form, where this run found it out.
    """

    def __init__(
        self,
        settings: RunSettings,
        records: list[Record],
        around: Callable[[Forward], Forward] = lambda forward: forward,
    ) -> None:
        self.form, self.batch, self.doubled = settings.form, settings.batch, settings.doubled
        self.inferred: Form | None = None
        self._settings, self._name, self._records = settings, settings.name, records
        self._forwards = Forwards(settings.scheduler, self.batch, settings.shape, around)
        bound = (
            settings.guiders, self.batch, settings.context, settings.diagnose, settings.cosines,
        )  # fmt: skip
        self._denoiser = (
            Accelerated(settings.skip, self._own_readout, *bound)
            if settings.skip
            else Denoiser(*bound)
        )
        self._now: StepEvaluation | None = None
        self._count = 0
        self._controlled: Any = None
        self._arrivals: Arrivals | None = None

    def evaluate(self, network: Any, forward: Forward, inputs: Inputs) -> Any:
        """Answer one call of the denoiser ``network``; ``forward`` is its own ``__call__``."""
        now = self._now or self._begin(inputs)
        now.network, now.forward = network, forward
        if self.form is None:
            rows = {self.batch, 2 * self.batch} if self.doubled else {self.batch}
            self._check_rows(now, inputs, rows)
            result = self._forwards.around(forward)(*inputs.args, **inputs.kwargs)
            now.calls.append((inputs, result))
            self._forwards.result = result
            return result
        if self.form.passes == 1 or not self.doubled:
            return self._one_pass(now, inputs, self.form)
        return self._two_passes(now, inputs, self.form)

    def control(self, forward: Forward, inputs: Inputs) -> Any:
        """Answer a call of a ControlNet: only the rows that the denoiser will need."""
        now = self._now or self._begin(inputs)
        if self._controlled is None or any(now.requests.branches.values()):
            self._controlled = self._control(now, forward, inputs)
        return self._controlled  # the last one's, where the denoiser is not evaluated either

    def commit(self, output: Tensor) -> Tensor:
        """What the scheduler is about to step with, checked; the evaluation is over."""
        now, self._now = self._now, None
        if now is None or not now.calls:
            return output
        if self.form is None:
            output = self._infer(now, output)
        elif now.guided is not None:
            self._check(now, output, self.form)
        if now.guided is None:
            raise RuntimeError(
                f"{self._name} did not evaluate its negative branch at step {now.step.index}, "
                "which the guider needs; to stop guiding early use Interval or Adaptive"
            )
        self._records.append(now.guided.record)
        self._count += 1
        return output

    def finish(self) -> None:
        """The run is over: what was not yet compared is looked at, all at once."""
        if self._now is not None and self._now.calls:
            raise RuntimeError(
                f"{self._name} evaluated its denoiser without a step of its scheduler; this "
                "pipeline cannot be guided"
            )
        self._denoiser.finish()
        if self._arrivals is not None:
            self._arrivals.finish()

    def _begin(self, inputs: Inputs) -> StepEvaluation:
        steps = self._settings.steps
        if self._count == len(steps):
            raise RuntimeError(
                f"{self._name} evaluates more than the {len(steps)} steps that its scheduler "
                "was set to; this pipeline cannot be guided"
            )
        step = steps[self._count]
        now = StepEvaluation.begin(step, self._denoiser.step(step, self._latents(inputs)))
        if self._settings.rigid:
            needed = [POSITIVE, NEGATIVE] if self.doubled else [POSITIVE]
            if any(len(now.requests.branches.get(branch, ())) < self.batch for branch in needed):
                raise ValueError(f"{self._name}: {self._settings.rigid}")
        self._now = now
        return now

    def _one_pass(self, now: StepEvaluation, inputs: Inputs, form: Form) -> Any:
        """Both branches in one call: g in each of them."""
        self._check_rows(now, inputs, {self.batch * (2 if self.doubled else 1)})
        if now.calls:
            raise RuntimeError(
                f"{self._name} called its denoiser again at step {now.step.index} (layer-skipping "
                "guidance of its own?); allowed is one call a step"
            )
        now.record_call(inputs, self._first_rows(form))
        self._forwards.evaluate_pending(now, form)
        value = self._forwards.sent(now, form)
        value = torch.cat([value, value]) if self.doubled else value
        return rewrap(self._forwards.result, value, _is_named(inputs))

    def _two_passes(self, now: StepEvaluation, inputs: Inputs, form: Form) -> Any:
        """A call for each branch: g is written into what the first one returned."""
        self._check_rows(now, inputs, {self.batch})
        number = len(now.calls)
        if number > 1:
            raise RuntimeError(
                f"{self._name} called its denoiser {number + 1} times at step {now.step.index}; "
                "allowed are two calls a step"
            )
        prompt = "positive" if (number == 0) == form.positive_first else "negative"
        now.record_call(inputs, {prompt: 0})
        self._forwards.evaluate_pending(now, form)
        if now.calls[-1][1] is None and number:
            now.calls[-1] = (inputs, now.calls[0][1])
        if now.guided is not None and now.sent is None:
            value = self._forwards.sent(now, form)
            before = now.first_output
            now.first_output = value if before is None else before.copy_(value)
        elif now.first_output is None and now.positive_output is not None:
            now.first_output = owned(now.positive_output)
        elif now.first_output is None:  # nothing was evaluated for this prompt
            shape = self._forwards.output_shape or self._forwards.shape or inputs.x.shape[1:]
            now.first_output = inputs.x.new_zeros((self.batch, *shape))
        return rewrap(self._forwards.result, now.first_output, _is_named(inputs))

    def _control(self, now: StepEvaluation, forward: Forward, inputs: Inputs) -> Any:
        rows = 2 * self.batch
        if self.form is None or self.form.passes == 2 or not self.doubled or inputs.rows != rows:
            return forward(*inputs.args, **inputs.kwargs)
        first = self._first_rows(self.form)
        needed = sorted(
            {
                first[name] + row
                for branch, images in now.requests.at_most().items()
                for name in Part(branch, branch, images).prompts
                for row in images
            }
        )
        if not needed or len(needed) == rows:
            return forward(*inputs.args, **inputs.kwargs)
        part = inputs.take(needed)
        return spread(forward(*part.args, **part.kwargs), needed, rows)

    def _check(self, now: StepEvaluation, output: Tensor, form: Form) -> None:
        """Is it the guided prediction that reaches the scheduler?"""
        assert now.sent is not None
        assert now.guided is not None
        times = len(output) // self.batch
        sent = now.sent if times == 1 else torch.cat([now.sent] * times)
        sent = crop(sent, output.shape[1:])
        if self._arrivals is None:
            self._arrivals = Arrivals(self._name, sent.dtype)
        known = now.sent is now.guided.output and sent.shape == now.sent.shape
        try:
            self._arrivals.compare(
                output if form.sign == 1 else form.sign * output,
                sent,
                now.guided.sums if known else None,
                guided=bool(now.answers.images(NEGATIVE)),
                last=self._count + 1 == len(self._settings.steps),
            )
        except RuntimeError:
            self._denoiser.finish()  # if a number is not finite, this says whose
            raise

    def _check_rows(self, now: StepEvaluation, inputs: Inputs, rows: set[int]) -> None:
        if inputs.rows not in rows:
            raise RuntimeError(
                f"{self._name} called its denoiser with {inputs.rows} rows for {self.batch} images "
                f"at step {now.step.index}: it switched its negative branch or its batch in "
                "mid-run, or has further branches; to stop guiding early use Interval or Adaptive"
            )

    def _infer(self, now: StepEvaluation, output: Tensor) -> Tensor:
        """Infer the form from the first evaluation, and guide it after the fact."""
        form, agree = infer(now, output, self.batch, self.doubled, self._name)
        prompts = ["positive", "negative"] if form.positive_first else ["negative", "positive"]
        own: dict[str, Tensor] = {}
        for (inputs, result), prompt in zip(now.calls, prompts, strict=False):
            first = self._first_rows(form) if form.passes == 1 else {prompt: 0}
            now.prompts |= {name: (inputs, row) for name, row in first.items()}
            whole = output_of(result)
            own |= {name: whole[row : row + self.batch] for name, row in first.items()}
        self._reuse(now, own, form)
        self._forwards.evaluate_pending(now, form)
        value = form.sign * crop(self._forwards.sent(now, form), output.shape[1:])
        if not (self.doubled and agree):
            self.form = form
        if self.doubled and not agree:
            self.inferred = form  # order, sign and passes: good for other runs too
        return torch.cat([value] * (len(output) // self.batch))

    def _reuse(self, now: StepEvaluation, own: dict[str, Tensor], form: Form) -> None:
        """Use what was evaluated before anybody knew which rows are needed."""
        inputs, at = now.prompts["positive"]
        x = inputs.x[at : at + self.batch]
        forwards, requests = self._forwards, now.requests
        forwards.shape = common_shape(forwards.shape, x.shape[1:], own["positive"].shape[1:])
        now.query = Query(crop(x, forwards.shape), now.step)
        everyone = list(range(self.batch))
        for branch in (POSITIVE, NEGATIVE):
            if (whole := own.get(str(branch.condition))) is None:
                continue
            rows = requests.branches.get(branch, [])
            now.answers.unasked[branch] = everyone
            otherwise = requests.through_network or requests.changes_embedding
            if branch == POSITIVE and (otherwise or requests.positive_as):
                now.answers.again += rows  # with gradients, told otherwise, of another network
                continue
            now.pending.pop(branch, None)
            rows = rows if branch == POSITIVE else everyone
            whole = take(whole.float() if form.upcast else whole, rows)
            forwards.add(now, Part(branch, branch, rows), whole, form)

    def _latents(self, inputs: Inputs) -> Tensor | None:
        """The latents (B, ...) that a call is about; ``None`` while the form is not known."""
        if self.form is None or self._forwards.shape is None:
            return None
        first = self._first_rows(self.form)["positive"] if inputs.rows == 2 * self.batch else 0
        return crop(inputs.x[first : first + self.batch], self._forwards.shape)

    def _first_rows(self, form: Form) -> dict[str, int]:
        """The first row of each prompt in a doubled forward."""
        other = self.batch if self.doubled else 0
        if form.positive_first:
            return {"positive": 0, "negative": other}
        return {"negative": 0, "positive": other}

    def _own_readout(self, step: Step) -> Any:
        assert self.form is not None
        return self._forwards.readout("", step, self.form)


def _is_named(inputs: Inputs) -> bool:
    """Is the denoiser asked to answer with a structure, as it does unless told otherwise?"""
    return inputs.kwargs.get("return_dict", True) is not False
