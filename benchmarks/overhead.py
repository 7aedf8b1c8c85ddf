"""What guiding costs and saves, as ratios to the pipeline's own guidance in one interleaved run.

    python benchmarks/overhead.py --out benchmarks/results/overhead-cpu.md

Every round times each variant once, in a new random order; a ratio is the median over rounds of
(variant / the pipeline's own CFG of the same round).
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import random
import statistics
import time
from pathlib import Path

import guiders
import torch
from guiders import APG, CFG, Adaptive, Guider, Interval, guided
from guiders.pipelines.generation.load import load_pipeline
from tqdm import tqdm

VARIANTS: dict[str, Guider | None] = {
    "the pipeline's own CFG": None,
    "CFG": CFG(7.5),
    "APG": APG(7.5),
    "CFG + APG": CFG(4) + APG(4),
    "CFG in an interval": CFG(Interval(7.5, low=0.5, high=5)),
    "CFG, Adaptive 0.99": CFG(Adaptive(7.5, threshold=0.99)),
    "unguided": CFG(1),
}
PROMPTS = ["red heart, noto style", "rocket", "food, fluent style", "cat face"]


def processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def once(pipe, guider: Guider | None, steps: int) -> tuple[float, float]:
    """Seconds and evaluations per image of one batch."""
    attached = guided(pipe, guider, quiet=True) if guider else contextlib.nullcontext()
    generators = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
    start = time.perf_counter()
    with attached as run:
        pipe(
            PROMPTS, num_inference_steps=steps, guidance_scale=7.5, generator=generators,
            output_type="latent",
        )  # fmt: skip
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, run.nfe if run else 2.0 * steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pipe = load_pipeline(args.model)
    pipe.set_progress_bar_config(disable=True)
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    nfe: dict[str, float] = {}
    for guider in VARIANTS.values():
        once(pipe, guider, args.steps)  # warm up
    for number in tqdm(range(args.rounds), desc="rounds"):
        names = list(VARIANTS)
        random.Random(number).shuffle(names)
        for name in names:
            seconds, nfe[name] = once(pipe, VARIANTS[name], args.steps)
            times[name].append(seconds)
    base = times["the pipeline's own CFG"]
    lines = [
        f"# Cost of guiding, {processor()}",
        "",
        f"`python benchmarks/overhead.py --model {args.model} --rounds {args.rounds} --steps "
        f"{args.steps}`, batch of {len(PROMPTS)}; guiders {guiders.__version__}, torch "
        f"{torch.__version__}.",
        "",
        "| variant | evaluations per image | time / the pipeline's own CFG (median, range) |",
        "|---|---|---|",
    ]
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, base, strict=True)]
        lines.append(
            f"| {name} | {nfe[name]:.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)


if __name__ == "__main__":
    main()
