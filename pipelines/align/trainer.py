"""Fine-tune a pipeline to a differentiable reward: AlignProp and its relatives as one loop."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..attach.guided import guided
from ..generation.generate import negative_arguments
from ..machine import all_processes, default_device
from ..rewards.check import Reward, check_reward
from .backprop import Backprop, backpropagated
from .checkpoint import Checkpoint, identity_of
from .lora import Adapter
from .monitor import Monitor
from .settings import AlignSettings
from .setup import freeze, trainable

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class MicroBatch:
    """What one trajectory drew: prompts, a seed for each picture, and the way back."""

    prompts: list[str]
    seeds: list[int]
    rng: random.Random


class Trainer:
    """An alignment run on a pipeline; ``run`` trains it, and goes on where a killed run stopped.

    Every random number of a step comes from the seed, the step and the device's number, so that
    a resumed run is the uninterrupted one, bit for bit where the kernels are.

    Args:
        pipe: a Diffusers pipeline that ``guided`` takes, with a decoder to pictures.
        reward: see ``Reward``; differentiable. A module is moved to the device and frozen.
        prompts: to train with.
        unseen: prompts to watch it with; ``prompts`` if there are none.
        settings: see ``AlignSettings``.
        out: folder for the LoRA, the checkpoint, the logs and the pictures.
        held_out: another reward that is never trained with, and its ``features(images)`` for the
            diversity of pictures, if it has them.
        device: where there is one process; the fastest there is by default.
        quiet: no progress bar.

    Raises:
        ValueError: something is not allowed, the reward included: a wrong shape, a value that is
            not finite, no gradient.
        RuntimeError: peft is not installed.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        reward: Reward,
        prompts: Sequence[str],
        settings: AlignSettings | None = None,
        out: str | Path = "lora",
        *,
        unseen: Sequence[str] = (),
        held_out: Reward | None = None,
        device: str = "",
        quiet: bool = False,
    ) -> None:
        self.settings = settings or AlignSettings()
        self.out, self.prompts = Path(out), list(prompts)
        if not self.prompts:
            raise ValueError("prompts are empty; allowed is at least one")
        self.unseen = list(unseen) or self.prompts
        precision = self.settings.mixed_precision
        if precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("mixed_precision is 'fp16'; allowed without a GPU are 'no' and 'bf16'")
        on_cpu = torch.device(device or default_device()).type == "cpu"
        self.processes = all_processes(on_cpu)
        alone = self.processes.num_processes == 1
        self.device = torch.device(device if alone and device else self.processes.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.pipe = pipe
        blocks = self.settings.checkpointing == "blocks"
        freeze(pipe, PRECISIONS[precision], self.device, blocks)
        with self._own_chance():
            torch.manual_seed(self.settings.seed)  # the same adapter on every device
            s = self.settings
            self.adapter = Adapter(pipe, s.rank, s.alpha, s.target_modules)
        self.optimizer = torch.optim.AdamW(
            self.adapter.parameters(), lr=s.learning_rate, betas=(s.beta1, s.beta2),
            eps=s.epsilon, weight_decay=s.weight_decay,
        )  # fmt: skip
        for network in (reward, held_out):
            if isinstance(network, nn.Module):
                network.requires_grad_(False).eval().to(self.device)
        self.reward, self.held_out = reward, held_out
        self.step = 0
        self.main = self.processes.is_main_process
        identity = identity_of(pipe, reward, self.prompts, self.unseen)
        self.checkpoint = Checkpoint(self.out, self.settings, identity, writes=self.main)
        self.quiet = quiet or not self.main
        self._consistent = True

    def run(self) -> Path:
        """Train to ``max_steps``; returns the folder of the LoRA.

        Raises:
            ValueError: the folder holds a run of other settings, or the reward does not work.
            RuntimeError: the reward or a gradient is not finite; what was made so far is kept.
        """
        s = self.settings
        resumed = self._resume()
        monitor = self._monitor() if self.main else None
        bar = tqdm(total=s.max_steps, initial=self.step, desc="align", disable=self.quiet)
        saved = self.step
        with trainable(self.pipe), bar:
            if not resumed:
                self._check_reward()
                if monitor:
                    monitor.evaluate(self.step)
            try:
                while self.step < s.max_steps:
                    figures = self._optimise()
                    bar.update()
                    bar.set_postfix(reward=f"{figures['reward']:.4f}")
                    if monitor:
                        monitor.log(figures)
                        if self.step % s.eval_every == 0 or self.step == s.max_steps:
                            monitor.evaluate(self.step)
                    if self.step % s.save_every == 0:
                        self._save()
                        saved = self.step
            finally:  # also when it is interrupted, or stops on a NaN
                if saved != self.step and self._consistent:
                    self._save()
            if monitor:
                monitor.compare(self.step)
        if self.main:  # also where nothing was left to do, and somebody removed it
            self.adapter.save(self.out)
        self.processes.wait_for_everyone()
        return self.out

    def _monitor(self) -> Monitor:
        return Monitor(
            self.out, self.settings, self.unseen, self.draw, self.reward, self.held_out,
            device=self.device, step=self.step,
        )  # fmt: skip

    # One step

    def _optimise(self) -> dict[str, float]:
        """One optimiser step; returns what the log shows."""
        s, started, spent = self.settings, time.monotonic(), time.process_time()
        rewards, losses, calls, parts = [], [], 0, s.gradient_accumulation_steps
        self.optimizer.zero_grad()  # of a step that was interrupted
        with self._own_chance():
            for micro in map(self.micro_batch, range(parts)):
                torch.manual_seed(micro.rng.getrandbits(63))  # for rewards that use chance
                for score, loss, count in self.accumulate(micro):
                    rewards.append(score)
                    losses.append(loss)
                    calls += count
        loss = self._mean(torch.tensor(losses).sum()).item()
        if not math.isfinite(loss):  # on any device
            self.optimizer.zero_grad()
            raise RuntimeError(self._not_finite("reward"))
        parameters = self.adapter.parameters()
        if all(parameter.grad is None for parameter in parameters):
            raise RuntimeError(f"{type(self.pipe).__name__}: no gradient reaches the LoRA")
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self._mean(parameter.grad)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(parameters, s.max_grad_norm))
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # which skips such steps
            self.optimizer.zero_grad()
            raise RuntimeError(self._not_finite("gradient"))
        self._consistent = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        self._consistent = True
        return {
            "step": self.step, "reward": self._mean(torch.cat(rewards).mean()).item(),
            "loss": loss, "grad_norm": norm, "gradient_calls": calls / parts,
            "seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - spent,
        }  # fmt: skip

    def _own_chance(self) -> contextlib.AbstractContextManager[None]:
        """Random numbers inside change none outside, on the host and this device alone."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def _mean(self, value: Tensor) -> Tensor:
        """Over the devices."""
        if self.processes.num_processes == 1:
            return value
        from accelerate.utils import reduce

        return reduce(value.to(self.device), "mean")

    def accumulate(self, micro: MicroBatch) -> Iterator[tuple[Tensor, float, int]]:
        """Sample, reward, backward; once, or several times from the same last noise level.

        Yields:
            The rewards (B,), the loss, and the network calls that carried gradients.
        """
        s = self.settings
        base = self.adapter.off if s.kl_weight else None
        with backpropagated(
            self.pipe, s.guider, s.truncation, rng=micro.rng,
            checkpointing=s.checkpointing != "none", base=base,
        ) as run:  # fmt: skip
            repeats = 1 + int(s.truncation.renoise)
            for repeat in range(repeats):
                again: contextlib.AbstractContextManager = contextlib.nullcontext()
                if repeat:
                    again = run.renoised(functools.partial(noise, micro.rng.getrandbits(63)))
                with again:
                    images = self.sample(micro.prompts, micro.seeds)
                yield self._backward(images, micro.prompts, run, repeats)

    def _backward(
        self, images: Tensor, prompts: list[str], run: Backprop, repeats: int
    ) -> tuple[Tensor, float, int]:
        s = self.settings
        scores = self.reward(images.float(), prompts)
        loss = s.loss(scores.float())
        if s.kl_weight and run.divergence is not None:
            loss = loss + s.kl_weight * run.divergence
        if s.weight_penalty:
            loss = loss + s.weight_penalty * self.adapter.size()
        loss = loss / (repeats * s.gradient_accumulation_steps)
        self.scaler.scale(loss).backward()
        return scores.detach().float(), loss.item(), run.calls

    def micro_batch(self, part: int, process: int | None = None) -> MicroBatch:
        """What the ``part``-th trajectory of this step draws, on this device or another."""
        s = self.settings
        process = self.processes.process_index if process is None else process
        rng = random.Random(f"{s.seed}/{self.step}/{part}/{process}")
        prompts = [rng.choice(self.prompts) for _ in range(s.batch_size)]
        return MicroBatch(prompts, [rng.getrandbits(63) for _ in prompts], rng)

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **changes: Any) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] by the pipeline as it is."""
        s = self.settings
        known = inspect.signature(type(self.pipe).__call__).parameters
        options = {"eta": s.eta, "height": s.height, "width": s.width}
        options = {k: v for k, v in options.items() if k in known and v is not None}
        options |= {"num_inference_steps": s.num_inference_steps} | changes
        images = self.pipe(
            list(prompts), output_type="pt",
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **negative_arguments(self.pipe, [s.negative_prompt] * len(prompts)), **options,
        )[0]  # fmt: skip
        if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 3:
            what = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"pipe is a {type(self.pipe).__name__}, which gives {what}; allowed are pipelines "
                "of pictures, a tensor (B, 3, H, W)"
            )
        return images

    def _not_finite(self, what: str) -> str:
        kept = f"the weights of step {self.step} are kept in {self.out}"
        return (
            f"the {what} is not finite at step {self.step + 1}; "
            f"{kept if self.step else 'nothing was trained yet'}. Allowed are finite ones: lower "
            "the learning rate, or go on from there with bf16 in place of fp16"
        )

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int], **changes: Any) -> Tensor:
        """Guided pictures (B, 3, H, W) in [0, 1], without gradients."""
        with guided(self.pipe, self.settings.guider, quiet=True):
            return self.sample(prompts, seeds, **changes)

    def _check_reward(self) -> None:
        """The reward on noise in the shape of the pictures: its values and its gradient.

        Raises:
            ValueError: it does not work.
        """
        prompts = [self.prompts[i % len(self.prompts)] for i in range(2)]
        images = self.draw(prompts, [0, 1], num_inference_steps=2)
        pictures = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        check_reward(self.reward, pictures.to(self.device), prompts)

    def _save(self) -> None:
        """The LoRA, and what a later run needs to go on."""
        if self.main:
            self.adapter.save(self.out)  # first: what has a checkpoint has its LoRA
        self.checkpoint.save({
            "step": self.step,
            "adapter": self.adapter.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        })  # fmt: skip

    def _resume(self) -> bool:
        """Go on from the checkpoint, if there is one."""
        state = self.checkpoint.load()
        if state is None:
            return False
        self.adapter.load(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if not self.quiet:
            tqdm.write(f"going on at step {self.step} of the run in {self.out}", file=sys.stderr)
        return True


def noise(seed: int, like: Tensor) -> Tensor:
    """Unit normal noise in the shape of ``like``, on its device."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
