"""What the training scripts share: one loop over accelerate with EMA, checkpoints and resume.

The same script runs on a CPU, on one GPU or on several (``accelerate launch``). A checkpoint holds
parameters, optimiser, EMA and the state of the random generators; a killed run started again
with the same ``--out`` goes on from there, with a new epoch. ``--steps`` may be changed then.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm


def arguments(description: str, steps: int, batch_size: int, lr: float) -> argparse.ArgumentParser:
    """The options every training script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=Path("build/emoji.npz"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch-size", type=int, default=batch_size, help="per process")
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--mixed-precision", default="bf16", choices=["no", "fp16", "bf16"])
    return parser


class Loop:
    """Minimise the mean of ``objective(*batch)`` over its parameters.

    Args:
        objective: a module whose forward returns the loss of a batch (so that DDP can wrap it).
        slow: the parameters trained at half the learning rate.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        objective: nn.Module,
        slow: Iterable[nn.Parameter] = (),
        warmup: int = 200,
        ema_decay: float = 0.999,
    ) -> None:
        torch.set_flush_denormal(True)  # moments of rarely used rows decay into slow arithmetic
        self.args, self.warmup = args, warmup
        self.accelerator = Accelerator(mixed_precision=args.mixed_precision)
        self.device = self.accelerator.device
        if self.device.type == "cpu":  # its fused attention spends a third of a step going back
            torch.backends.cuda.enable_flash_sdp(False)
        self.raw = objective.to(self.device)
        slow = list(slow)  # in order: a checkpoint knows the parameters by their numbers
        fast = [p for p in self.parameters() if all(p is not q for q in slow)]
        groups: list[dict] = [{"params": fast}]
        self.rates = [args.lr]
        if slow:
            groups.append({"params": slow})
            self.rates.append(args.lr / 2)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.ema = EMAModel(self.parameters(), decay=ema_decay)
        self.ema.to(self.device)
        self.step, self.best = 0, math.inf
        self.accelerator.register_for_checkpointing(self, self.ema)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.raw.parameters() if p.requires_grad]

    def state_dict(self) -> dict:
        return {"step": self.step, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.best = state["step"], state["best"]

    def rate(self) -> float:
        """Linear warm-up, then half a cosine down to 1 % of the learning rate."""
        done = min(self.step / self.args.steps, 1.0)
        return min(1.0, (self.step + 1) / self.warmup) * (0.505 + 0.495 * math.cos(math.pi * done))

    def run(
        self,
        draw: Callable[[], tuple[Tensor, ...]],
        validate: Callable[[], float],
        save: Callable[[], None],
    ) -> None:
        """Train to ``args.steps`` on the batches of ``draw``.

        Every ``args.save_every`` steps ``validate`` is called with the EMA weights in place, and
        ``save`` too where its value is the lowest so far.
        """
        accelerator, args = self.accelerator, self.args
        checkpoint = args.out / "checkpoint"
        if checkpoint.exists():
            accelerator.load_state(str(checkpoint))
            accelerator.print(f"resuming at step {self.step}")
        else:  # every process draws its own batches
            torch.manual_seed(args.seed + accelerator.process_index)
        bar = tqdm(
            initial=self.step, total=args.steps, mininterval=10,
            disable=not accelerator.is_main_process,
        )  # fmt: skip
        average, started = None, time.monotonic()
        self.raw.train()
        while self.step < args.steps:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.rate()
            with accelerator.autocast():
                value = self.objective(*draw()).mean()
            self.optimizer.zero_grad()
            accelerator.backward(value)
            accelerator.clip_grad_norm_(self.parameters(), 1.0)
            self.optimizer.step()
            self.ema.step(self.parameters())
            self.step += 1
            average = value.item() if average is None else 0.98 * average + 0.02 * value.item()
            bar.update()
            if self.step % args.save_every == 0 or self.step == args.steps:
                held_out = self.evaluate(validate, save)
                bar.write(
                    f"step {self.step}  loss {average:.4f}  held out {held_out:.4f}  "
                    f"best {self.best:.4f}  {time.monotonic() - started:.0f} s"
                )
                accelerator.save_state(str(checkpoint), safe_serialization=False)
        bar.close()

    def evaluate(self, validate: Callable[[], float], save: Callable[[], None]) -> float:
        self.ema.store(self.parameters())
        self.ema.copy_to(self.parameters())
        self.raw.eval()
        with torch.no_grad():
            value = validate()
        if value < self.best:
            self.best = value
            if self.accelerator.is_main_process:
                save()
        self.raw.train()
        self.ema.restore(self.parameters())
        return value


def batches(indices: Tensor, size: int) -> Iterable[Tensor]:
    """Endless shuffled batches of ``indices``, epoch after epoch, without a short last one."""
    while True:
        order = indices[torch.randperm(len(indices))]
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]
