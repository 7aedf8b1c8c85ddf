"""Sampling with gradients: the pipeline's own loop, guided, with checkpoints and a truncation."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...guidance import Guider
from ...samplers import read_level, steps_ahead
from ..attach.attachment import Attachment
from ..attach.evaluation import is_changed
from ..attach.guided import guided
from ..patch.call_arguments import Inputs
from ..patch.class_swap import restore, swap
from ..patch.parts import DENOISERS, parts_of
from .truncation import Draw, Truncation

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Backprop:
    """What ``backpropagated`` yields.

    Attributes:
        attachment: what ``guided`` yields: evaluations and records of each call.
        draw: of the latest call.
        calls: network calls of the latest call that carry gradients.
        divergence: where ``base`` is given, the mean square between the network's output and the
            base's, summed over ``calls``.
        final: the final latents of the latest call, detached.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        attachment: Attachment,
        truncation: Truncation,
        rng: random.Random,
        checkpointing: bool,
        base: Callable[[], Any] | None,
    ) -> None:
        self.attachment, self.draw, self.calls = attachment, Draw(frozenset(), -1, 0), 0
        self.divergence: Tensor | None = None
        self.final: Tensor | None = None
        self._pipe, self._truncation, self._rng = pipe, truncation, rng
        self._checkpointing, self._base = checkpointing, base
        self._parts = parts_of(pipe)
        known = (*DENOISERS, "controlnet")
        self._networks = [self._parts[name] for name in known if name in self._parts]
        self._seen: Tensor | None = None
        self._index = self._count = 0
        self._bare = False  # does this evaluation carry no gradients?
        self._kept: list[Any] = []
        self._noise: Callable[[Tensor], Tensor] | None = None

    def attach(self) -> None:
        """On top of ``guided``: whole evaluations; within it, each network call."""
        self.attachment.around = self._around
        for network in self._networks:
            swap(network, {"__call__": self._evaluate})
        swap(self._parts["scheduler"], {"set_timesteps": self._begin, "step": self._step})

    def detach(self) -> None:
        for part in (*self._networks, self._parts["scheduler"]):
            restore(part)

    @contextmanager
    def renoised(self, noise: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """The next call of the pipeline, with the same arguments, takes only the last step anew.

        What the network said before is repeated, not evaluated; the latents of the last evaluation
        are the final ones of the call before with the ``noise`` (a function of their like) that
        its noise level asks for.
        """
        self._noise = noise
        try:
            yield
        finally:
            self._noise = None

    def _begin(self, original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's ``set_timesteps``: a new trajectory."""
        self._index = self._count = self.calls = 0
        self._bare = False
        self.divergence, self._seen = None, None
        if self._noise is None:
            self._kept, self.final = [], None
        return original(scheduler, *args, **kwargs)

    def _evaluate(self, original: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The denoiser's ``__call__``, the guider's work included; or a ControlNet's."""
        inputs = Inputs(args, kwargs)
        if not self._index and self._seen is None and self._noise is None:
            count = getattr(self._pipe, "num_timesteps", None)
            total = len(steps_ahead(self._parts["scheduler"], inputs.time, count))
            self.draw = self._truncation.draw(total, self._rng)
        self._seen = inputs.x
        if self._truncation.detach_input:
            args, kwargs = _detach((args, kwargs))
        carries = torch.is_grad_enabled() and self._index in self.draw.steps
        # A guider that differentiates for itself turns gradients on where none are to be carried.
        self._bare = not carries
        try:
            with torch.set_grad_enabled(carries):
                return original(network, *args, **kwargs)
        finally:
            self._bare = False

    def _around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Each call of a network."""

        def call(*args: Any, **kwargs: Any) -> Any:
            number, self._count = self._count, self._count + 1
            if self._noise is not None and number < len(self._kept):
                return self._kept[number]
            if not torch.is_grad_enabled() or self._bare:
                result = forward(*args, **kwargs)
                if self._truncation.renoise:
                    self._kept.append(_detach(result))
                return result
            self.calls += 1
            if self._checkpointing:
                result = checkpoint(forward, *args, use_reentrant=False, **kwargs)
            else:
                result = forward(*args, **kwargs)
            if self._base is not None and not is_changed(forward):
                with torch.no_grad(), self._base():
                    other = forward(*args, **kwargs)
                gap = (_tensor(result).float() - _tensor(other).float()).square().mean()
                self.divergence = gap if self.divergence is None else self.divergence + gap
            return result

        return call

    def _step(self, original: Any, scheduler: Any, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's ``step``: ends early, or goes to the noise asked for."""
        index, draw = self._index, self.draw
        self._index += 1
        stopping = index == draw.stop < draw.total - 1
        clean = self._clean(scheduler, *args, **kwargs) if stopping else None
        result = original(scheduler, *args, **kwargs)
        latents = result[0]
        if stopping:
            assert clean is not None
            self._pipe._interrupt = True
            latents = clean.to(latents.dtype)
        elif self._noise is not None and index == draw.total - 2:
            assert self.final is not None
            time = scheduler.timesteps[-1:].expand(len(self.final))
            add = getattr(scheduler, "scale_noise", None) or scheduler.add_noise
            arguments = {"sample" if add.__name__ == "scale_noise" else "original_samples":
                         self.final, "noise": self._noise(self.final)}  # fmt: skip
            time_name = "timestep" if add.__name__ == "scale_noise" else "timesteps"
            latents = add(**arguments, **{time_name: time}).to(latents.dtype)
        if index == draw.stop and self._noise is None:
            self.final = latents.detach()
        return _replaced(result, latents)

    def _clean(
        self, scheduler: Any, model_output: Tensor, timestep: Any, sample: Tensor, **_: Any
    ) -> Tensor:
        """The clean image at the evaluation that the scheduler is about to step from."""
        assert self._seen is not None
        readout = read_level(scheduler, timestep).readout
        x = self._seen[-len(sample) :]  # what the network saw, of one branch
        return readout.x0(x[(slice(None), *map(slice, sample.shape[1:]))], model_output)


@contextmanager
def backpropagated(
    pipe: DiffusionPipeline,
    guider: Guider,
    truncation: Truncation | None = None,
    *,
    rng: random.Random | None = None,
    checkpointing: bool = True,
    base: Callable[[], Any] | None = None,
) -> Iterator[Backprop]:
    """``guided``, and gradients flow from the pictures to the networks' parameters.

        with backpropagated(pipe, CFG(5), Truncation("fixed", 4)) as run:
            images = pipe(prompts, num_inference_steps=30, output_type="pt").images
        reward(images, prompts).mean().backward()

    The loop is the pipeline's own, under its own scheduler. The safety checker and the watermark
    are off meanwhile: they are no functions that could be differentiated.

    Args:
        pipe: a Diffusers pipeline that ``guided`` takes.
        guider: such as ``CFG(5)``; ``CFG(1)`` is none.
        truncation: how far gradients go back; AlignProp's by default.
        rng: for its draws; one of random seed by default.
        checkpointing: keep only the inputs of each network call and evaluate it again on the way
            back (Chen et al. 2016, arXiv:1604.06174): memory then hardly grows with the calls.
        base: a context manager in which the network is the base; see ``Backprop.divergence``.

    Raises:
        ValueError: ``truncation`` stops early and the pipeline cannot; or see ``guided``.
    """
    truncation = truncation or Truncation()
    if truncation.early_stop > 1 and not hasattr(type(pipe), "interrupt"):
        raise ValueError(
            f"early_stop is {truncation.early_stop}; allowed for {type(pipe).__name__}, which "
            "cannot be interrupted, is 0"
        )
    with plain(pipe), guided(pipe, guider, quiet=True, gradients=True) as attachment:
        run = Backprop(
            pipe, attachment, truncation, rng or random.Random(), checkpointing, base,
        )  # fmt: skip
        run.attach()
        try:
            yield run
        finally:
            run.detach()


@contextmanager
def plain(pipe: DiffusionPipeline) -> Iterator[None]:
    """The pipeline without what it does to its pictures outside of torch."""
    hidden = {
        name: part
        for name in ("safety_checker", "watermark")
        if (part := getattr(pipe, name, None)) is not None
    }
    for name in hidden:
        setattr(pipe, name, None)
    try:
        yield
    finally:
        for name, part in hidden.items():
            setattr(pipe, name, part)


def _detach(value: Any) -> Any:
    """The same nest without gradients."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        made = {key: _detach(item) for key, item in value.items()}
        return type(value)(**made) if type(value) is not dict else made
    if isinstance(value, (tuple, list)):
        return type(value)(_detach(item) for item in value)
    return value


def _tensor(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def _replaced(result: Any, latents: Tensor) -> Any:
    """What a scheduler's ``step`` returned, with other latents."""
    if isinstance(result, tuple):
        return (latents, *result[1:])
    return type(result)(**{**result, "prev_sample": latents})
