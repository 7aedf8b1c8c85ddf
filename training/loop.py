"""What training scripts share: a loop over accelerate with EMA, checkpoints, resume and a log.

The same script runs on a CPU, on one GPU or in several processes (``torchrun``; on a CPU, with
``ACCELERATE_USE_CPU=true``, two processes of one thread each are much faster than one of two). The
budget is a number of steps or, on machines of unknown speed, of minutes: the learning rate, the
size of the batches and the times of evaluation follow the share of it that is done. A checkpoint
holds parameters, optimiser, EMA and the state of the random generators; a killed run started again
with the same ``--out`` goes on from there, with a new epoch. The budget may be changed then.

``log.jsonl`` in the folder of the run has a line for each evaluation, ``curve.png`` draws it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from muon import Muon, is_matrix
from torch import Tensor, nn
from tqdm import tqdm


def arguments(
    description: str, minutes: float, batch_size: list[int], lr: float
) -> argparse.ArgumentParser:
    """The options every training script has."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--data", type=Path, default=Path("build/emoji.npz"))
    add("--out", type=Path, required=True, help="folder of the run")
    add("--minutes", type=float, default=minutes, help="the budget, evaluations included")
    add("--steps", type=int, help="a budget in steps instead, for runs that can be repeated")
    add(
        "--batch-size", type=int, nargs="+", default=batch_size,
        help="per process; several: each for an equal share of the budget",
    )  # fmt: skip
    add("--lr", type=float, default=lr)
    add("--seed", type=int, default=0)
    add("--saves", type=int, default=20, help="evaluations and checkpoints over the budget")
    add("--mixed-precision", default="bf16", choices=["no", "fp16", "bf16"])
    return parser


class Loop:
    """Minimise the mean of ``objective(*batch)`` over its parameters.

    Args:
        objective: a module whose forward returns the loss of a batch (so that DDP can wrap it).
        slow: the parameters trained at half the learning rate.
        muon: train the matrices that are not slow by ``Muon``, at four times the learning rate.
        warmup: steps until the learning rate is whole.
        ema_decay: of the average that is evaluated and kept; ``(1 + n) / (10 + n)`` at step n
            until it is reached.
        last: keep the last weights, whatever the losses are; otherwise those of the lowest.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        objective: nn.Module,
        slow: Iterable[nn.Parameter] = (),
        muon: bool = False,
        warmup: int = 100,
        ema_decay: float = 0.999,
        last: bool = False,
    ) -> None:
        torch.set_flush_denormal(True)  # moments of rarely used rows decay into slow arithmetic
        self.args, self.warmup, self.last = args, warmup, last
        self.accelerator = Accelerator(mixed_precision=args.mixed_precision)
        self.device = self.accelerator.device
        if self.device.type == "cpu":  # its fused attention spends a third of a step going back
            torch.backends.cuda.enable_flash_sdp(False)
        self.raw = objective.to(self.device)
        # Lists in order: a checkpoint knows the parameters by their numbers.
        slow_ones = {id(p) for p in slow}
        fast = [p for p in self.parameters() if id(p) not in slow_ones]
        matrices = [p for p in fast if muon and is_matrix(p)]
        one_by_one = {id(p) for p in matrices}
        groups = [
            {"params": [p for p in fast if id(p) not in one_by_one], "lr": args.lr},
            {"params": [p for p in self.parameters() if id(p) in slow_ones], "lr": args.lr / 2},
        ]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                betas=(0.9, 0.99), weight_decay=0.01, fused=True,
            )
        ]  # fmt: skip
        if matrices:
            optimizers.append(Muon(matrices, lr=4 * args.lr))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["whole"] = group["lr"]
        self.objective, *self.optimizers = self.accelerator.prepare(objective, *optimizers)
        self.ema = EMAModel(self.parameters(), decay=ema_decay, foreach=True)
        self.ema.to(self.device)
        self.step, self.pictures, self.before, self.best, self.done = 0, 0, 0.0, math.inf, 0.0
        self.started = time.monotonic()
        self.accelerator.register_for_checkpointing(self, self.ema)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.raw.parameters() if p.requires_grad]

    def state_dict(self) -> dict:
        return {
            "step": self.step, "pictures": self.pictures, "seconds": self.seconds, "best": self.best
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self.step, self.pictures, self.best = state["step"], state["pictures"], state["best"]
        self.before, self.started = state["seconds"], time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent on the run so far, before it was interrupted too."""
        return self.before + time.monotonic() - self.started

    def look(self) -> None:
        """Set ``done``, the share of the budget that is spent, by the first process's clock."""
        if self.args.steps is not None:
            self.done = min(self.step / self.args.steps, 1.0)
            return
        share = torch.tensor(min(self.seconds / (60 * self.args.minutes), 1.0), device=self.device)
        self.done = broadcast(share).item()

    @property
    def batch_size(self) -> int:
        sizes = self.args.batch_size
        return sizes[min(int(self.done * len(sizes)), len(sizes) - 1)]

    def rate(self) -> float:
        """Linear warm-up, then half a cosine down to 1 % of the learning rate."""
        return min(1.0, (self.step + 1) / self.warmup) * (
            0.505 + 0.495 * math.cos(math.pi * self.done)
        )

    def run(
        self,
        draw: Callable[[], tuple[Tensor, ...]],
        validate: Callable[[], dict[str, float]],
        save: Callable[[], None],
    ) -> None:
        """Train on the batches of ``draw`` until the budget is spent.

        ``args.saves`` times ``validate`` is called with the EMA weights in place, and ``save`` too
        where the first of its figures is the lowest so far, or where the last are to be kept.
        """
        accelerator, args = self.accelerator, self.args
        checkpoint = args.out / "checkpoint"
        if checkpoint.exists():
            accelerator.load_state(str(checkpoint))
            self.look()
            accelerator.print(f"resuming at step {self.step}, {self.done:.0%} done")
        else:  # every process draws its own batches
            torch.manual_seed(args.seed + accelerator.process_index)
        bar = tqdm(
            initial=self.step, total=args.steps, mininterval=10,
            disable=not accelerator.is_main_process,
        )  # fmt: skip
        self.started = time.monotonic()
        losses: list[Tensor] = []
        due = int(self.done * args.saves) + 1
        self.raw.train()
        while due <= args.saves:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["whole"] * self.rate()
            batch = draw()
            with accelerator.autocast():
                value = self.objective(*batch).mean()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            accelerator.backward(value)
            accelerator.clip_grad_norm_(self.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.ema.step(self.parameters())
            self.step += 1
            self.pictures += len(batch[0]) * accelerator.num_processes
            losses.append(value.detach())
            bar.update()
            self.look()
            if self.done * args.saves >= due:
                due = int(self.done * args.saves) + 1
                average = torch.stack(losses).mean().item()
                losses.clear()
                self.evaluate(validate, save, average, bar)
                accelerator.save_state(str(checkpoint), safe_serialization=False)
        bar.close()

    def evaluate(
        self,
        validate: Callable[[], dict[str, float]],
        save: Callable[[], None],
        loss: float,
        bar: tqdm,
    ) -> None:
        """Validate the EMA weights, keep them if they are the best, and log."""
        self.ema.store(self.parameters())
        self.ema.copy_to(self.parameters())
        self.raw.eval()
        with torch.no_grad():
            figures = validate()
            value = next(iter(figures.values()))
            if value < self.best or self.last:
                self.best = min(value, self.best)
                if self.accelerator.is_main_process:
                    save()
        self.raw.train()
        self.ema.restore(self.parameters())
        if self.accelerator.is_main_process:
            numbers = {"loss": loss, **figures}
            row = {"step": self.step, "pictures": self.pictures, "seconds": round(self.seconds)}
            bar.write("  ".join(f"{k} {v}" for k, v in row.items()) + "  " + "  ".join(
                f"{key} {number:.4f}" for key, number in numbers.items()
            ))  # fmt: skip
            with open(self.args.out / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row | {k: round(v, 5) for k, v in numbers.items()}) + "\n")
            draw_curve(self.args.out / "log.jsonl")


def draw_curve(log: Path) -> None:
    """``curve.png`` beside the log: every figure over the pictures seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for key in list(rows[-1])[3:]:
        points = [(row["pictures"], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), label=key, marker=".")
    axes.set(xlabel="pictures seen", yscale="log")
    axes.legend()
    figure.savefig(log.with_name("curve.png"))
    pyplot.close(figure)


class Shuffled:
    """Endless epochs of ``indices`` (N,), each in a new order, any number at a time."""

    def __init__(self, indices: Tensor) -> None:
        self.indices, self.left = indices, indices[:0]

    def take(self, count: int) -> Tensor:
        while len(self.left) < count:
            again = self.indices[torch.randperm(len(self.indices))]
            self.left = torch.cat([self.left, again])
        rows, self.left = self.left[:count], self.left[count:]
        return rows
