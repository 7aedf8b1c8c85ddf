"""SADA, alone and with Adaptive Guidance, beside plain fewer steps at equal cost.

    python benchmarks/acceleration.py --out benchmarks/results/acceleration.md

The same captions and noise through every variant; pictures are compared with those of all steps.
Every round times each variant once, in a new order; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

import diffusers
import guiders
import torch
from guiders import CFG, SADA, Adaptive, guided, models
from plot import Line, plot
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

PROMPTS = [
    "red heart, noto style", "rocket, fluent style", "cat face, noto style",
    "banana, twemoji style", "grinning face, emojione style", "pizza, noto style",
    "key, fluent style", "sun, twemoji style",
]  # fmt: skip


def psnr(a: Tensor, b: Tensor) -> float:
    """Of pictures (B, 3, H, W) in [0, 1], the mean over pictures."""
    error = (a - b).square().flatten(1).mean(1).clamp_min(1e-12)
    return float((-10 * error.log10()).mean())


def ssim(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004, windows of 7 x 7, of pictures (B, 3, H, W) in [0, 1]."""

    def mean(x: Tensor) -> Tensor:
        return avg_pool2d(x, 7, 1)

    means, both = (mean(a), mean(b)), mean(a * b) - mean(a) * mean(b)
    spreads = [mean(x * x) - m * m for x, m in zip((a, b), means, strict=True)]
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
    shape = (2 * both + c2) / (spreads[0] + spreads[1] + c2)
    return float((light * shape).mean())


class Bench:
    def __init__(self, scale: float, scheduler: str) -> None:
        self.pipe = models.load("emoji")
        self.pipe.set_progress_bar_config(disable=True)
        kind = getattr(diffusers, scheduler)
        self.pipe.scheduler = kind.from_config(self.pipe.scheduler.config)
        self.plain, self.adaptive = CFG(scale), CFG(Adaptive(scale, threshold=0.99))

    def draw(self, steps: int, guider: Any, skip: SADA | None) -> tuple[Tensor, float, float]:
        """Pictures (B, 3, H, W) in [0, 1], evaluations per picture, seconds."""
        began = time.perf_counter()
        with guided(self.pipe, guider, skip=skip, quiet=True) as run:
            latents = self.pipe(
                PROMPTS, num_inference_steps=steps, output_type="latent",
                generator=[torch.Generator().manual_seed(i) for i in range(len(PROMPTS))],
            ).images  # fmt: skip
        seconds = time.perf_counter() - began
        with torch.no_grad():
            pixels = self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor).sample
        return (pixels / 2 + 0.5).clamp(0, 1), run.nfe, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=4.0)
    parser.add_argument("--scheduler", default="DPMSolverMultistepScheduler")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/acceleration.md"))
    args = parser.parse_args()
    bench, n = Bench(args.scale, args.scheduler), args.steps
    quirk = SADA(coefficients="code", stride="code")
    variants: dict[str, tuple[int, Any, SADA | None]] = {
        f"{n} steps": (n, bench.plain, None),
        "SADA": (n, bench.plain, SADA()),
        "SADA, code's coefficients": (n, bench.plain, SADA(coefficients="code")),
        "SADA, code's coefficients and stride": (n, bench.plain, quirk),
        "Adaptive 0.99": (n, bench.adaptive, None),
        "SADA with Adaptive 0.99": (n, bench.adaptive, SADA()),
    }
    truth, full, _ = bench.draw(*variants[f"{n} steps"])
    found: dict[str, tuple[float, float, float]] = {}

    def measure(name: str, variant: tuple[int, Any, SADA | None]) -> None:
        pictures, nfe, _ = bench.draw(*variant)
        found[name] = (nfe, psnr(pictures, truth), ssim(pictures, truth))

    for name, variant in list(variants.items()):
        measure(name, variant)
    for name, guider in (("SADA", bench.plain), ("SADA with Adaptive 0.99", bench.adaptive)):
        steps = round(found[name][0] / 2)
        if guider is bench.adaptive:  # as many evaluations as SADA with it
            steps = round(n * found[name][0] / found["Adaptive 0.99"][0])
        label = f"{steps} steps" + (", Adaptive 0.99" if guider is bench.adaptive else "")
        variants[label] = (steps, guider, None)
        measure(label, variants[label])
    for steps in (10, 15, 25, 30):
        measure(f"{steps} steps", (steps, bench.plain, None))
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in tqdm(range(args.rounds), desc="rounds"):
        order = list(variants)
        random.Random(number).shuffle(order)
        for name in order:
            times[name].append(bench.draw(*variants[name])[2])
    base = times[f"{n} steps"]
    lines = [
        "# Steps left out, and fewer steps",
        "",
        f"`python benchmarks/acceleration.py --steps {n} --rounds {args.rounds} --scale "
        f"{args.scale:g} --scheduler {args.scheduler}`: emoji, CFG {args.scale:g}, "
        f"{len(PROMPTS)} captions in one batch, against the pictures of all {n} steps; guiders "
        f"{guiders.__version__}, torch {torch.__version__}. Time is that of the pipeline without "
        f"decoding, the median ratio of {args.rounds} rounds.",
        "",
        "| variant | evaluations | saved | time | PSNR | SSIM |",
        "|---|---|---|---|---|---|",
    ]
    for name, (nfe, noise, structure) in found.items():
        ratios = [a / b for a, b in zip(times.get(name, []), base, strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
        shown = "-" if nfe == full else f"{noise:.2f} | {structure:.4f}"
        shown = "- | -" if shown == "-" else shown
        lines.append(f"| {name} | {nfe:.1f} | {1 - nfe / full:.0%} | {ratio} | {shown} |")
    plain = {name: row for name, row in found.items() if name.endswith(" steps")}
    fewer = sorted(row for row in plain.values() if row[0] != full)
    series = [Line("fewer steps", [row[0] for row in fewer], [row[1] for row in fewer])]
    for name, (nfe, noise, _) in found.items():
        if name not in plain:
            series.append(Line(name, [nfe], [noise], joined=False))
    picture = args.out.with_suffix(".png")
    plot(picture, f"PSNR to {n} steps (dB)", "evaluations per picture", series)
    lines += ["", f"![PSNR against evaluations]({picture.name})"]
    text = "\n".join(lines) + "\n"
    print(text)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)


if __name__ == "__main__":
    main()
