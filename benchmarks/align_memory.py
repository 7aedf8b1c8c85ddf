"""Peak memory of reward backpropagation: over K, over the steps, with and without checkpoints.

    OMP_NUM_THREADS=1 python benchmarks/align_memory.py --out benchmarks/results/align-memory-cpu.md
    python benchmarks/align_memory.py --device cuda --out benchmarks/results/align-memory-cuda.md

On a CPU with the emoji model: every row is a forked process, and what is measured is how far its
resident memory rises above what it held before. On a GPU with networks in the shapes of SD 1.5 and
SDXL and random weights, at 512 and 1024 pixels, batch 4: what torch allocated at most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import guiders
import psutil
import torch
from diffusers import DDIMScheduler
from guiders import CFG, models
from guiders.pipelines.align import Adapter, Truncation, backpropagated
from shapes import build
from tqdm import tqdm

MEGA = 2**20


def rows(steps: int, every: bool) -> Iterator[tuple[int, int, bool]]:
    """(steps, K, checkpointing) to measure."""
    for checkpointing in (True, False):
        for k in (1, 2, 4, 8):
            yield steps, k, checkpointing
    for other in (steps // 2, 2 * steps):
        for checkpointing in (True, False):
            yield other, 4, checkpointing
    if every:
        for other in (steps // 2, steps, 2 * steps):
            yield other, other, True


def once(pipe: Any, inputs: dict[str, Any], steps: int, k: int, checkpointing: bool) -> int:
    """One trajectory, its loss and its gradient; the network calls that carried gradients."""
    truncation = Truncation("fixed", k)
    with backpropagated(pipe, CFG(5), truncation, checkpointing=checkpointing) as run:
        images = pipe(num_inference_steps=steps, **{**inputs, "output_type": "pt"}).images
    images.float().square().mean().backward()
    return run.calls


def on_cpu(pipe: Any, inputs: dict[str, Any], row: tuple[int, int, bool]) -> float:
    """MiB above what a fresh process holds."""
    receive, send = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        before = psutil.Process().memory_info().rss
        assert once(pipe, inputs, *row) == row[1]
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        send.send((peak - before) / MEGA)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return receive.recv()


def on_gpu(pipe: Any, inputs: dict[str, Any], row: tuple[int, int, bool]) -> float:
    """MiB above the weights; nan where there is too little memory."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        assert once(pipe, inputs, *row) == row[1]
    except torch.OutOfMemoryError:
        return float("nan")
    return (torch.cuda.max_memory_allocated() - before) / MEGA


def emoji(batch: int) -> tuple[Any, dict[str, Any]]:
    pipe = models.load("emoji")
    return pipe, {"prompt": ["red heart, noto style"] * batch, "eta": 1.0}


def shaped(name: str, batch: int, device: str, tiny: bool = False) -> tuple[Any, dict[str, Any]]:
    """A pipeline in the shapes of SD 1.5 or SDXL, random weights in bfloat16, no text encoders."""
    pipe, inputs = build(name, device, batch=batch, tiny=tiny, decodes=True)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False
    )
    return pipe, {**inputs, "eta": 1.0}


def trained(pipe: Any) -> None:
    """Put a LoRA on the pipeline, which alone is trained."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    Adapter(pipe)


def table(title: str, pipe: Any, inputs: dict[str, Any], steps: int, measure: Any) -> list[str]:
    trained(pipe)
    lines = [f"## {title}", "", "| steps | K | checkpoints | peak, MiB |", "|---|---|---|---|"]
    for row in tqdm(list(rows(steps, every=True)), desc=title):
        peak = measure(pipe, inputs, row)
        shown = "out of memory" if peak != peak else f"{peak:.0f}"
        lines.append(f"| {row[0]} | {row[1]} | {'yes' if row[2] else 'no'} | {shown} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, help="(default: 12 on a CPU, 50 on a GPU)")
    parser.add_argument("--shapes", nargs="*", default=["sd15", "sdxl"], help="on a GPU")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    steps = args.steps or (12 if args.device == "cpu" else 50)
    where = platform.machine() if args.device == "cpu" else torch.cuda.get_device_name()
    lines = [
        f"# Memory of reward backpropagation, {where}",
        "",
        f"`python benchmarks/align_memory.py --device {args.device} --batch-size "
        f"{args.batch_size} --steps {steps}`; guiders {guiders.__version__}, torch "
        f"{torch.__version__}. K network calls carry gradients; CFG, DDIM with eta 1.",
        "",
    ]
    if args.device == "cpu":
        lines += table("emoji, 32 x 32 pixels", *emoji(args.batch_size), steps, on_cpu)
    else:
        for name, side in (("sd15", 512), ("sdxl", 1024)):
            if name in args.shapes:
                made = shaped(name, args.batch_size, args.device)
                title = f"{name}-shaped, {side} x {side} pixels, bfloat16"
                lines += table(title, *made, steps, on_gpu)
                del made
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)


if __name__ == "__main__":
    main()
