"""What Adaptive Guidance and its relatives cost and change, against CFG with fewer steps.

    python benchmarks/adaptive.py --out benchmarks/results/adaptive-cpu.md

Every picture is compared with that of the same prompt and seed at 20 steps of CFG. The naive way to
save evaluations is to take fewer steps: each method is paired, picture by picture, with CFG at as
many evaluations, interpolated linearly between the numbers of steps that were run. LinearAG is
fitted on other prompts and seeds first. SSIM needs torchmetrics, the plot matplotlib.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import guiders
import numpy as np
import torch
from guiders import CFG, Adaptive, Guider, LinearAG, Stale, StepAG, guided
from guiders.evals import Estimate, bootstrap, image_features, text_features
from guiders.pipelines.calibration.fit_linear_ag import Fit, fit_linear_ag
from guiders.pipelines.generation.generate import sample
from guiders.pipelines.generation.load import load_pipeline
from guiders.pipelines.generation.settings import Settings
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

STEPS, FEWER, BATCH = 20, (10, 13, 15, 18), 32
SETTINGS = {"num_inference_steps": STEPS}
X0, EPS = (0.95, 0.98, 0.99, 0.999), (0.991, 0.9992)
KEPT = ((0.98, "eps"), (0.99, "eps"), (0.999, "eps"), (0.99, "x0"))
FITTED = (
    "red heart", "cat face", "rocket", "pizza", "grinning face", "guitar", "tree", "bicycle",
    "crying face", "apple", "fish", "rainbow", "key", "crown", "robot", "bread", "airplane",
    "umbrella", "soccer ball", "hamburger", "sun", "clock", "alien", "horse",
)  # fmt: skip
NAMES = (
    "green heart", "dog face", "ship", "cake", "crying cat", "drum", "cactus", "bus", "angry face",
    "lemon", "crab", "snowman", "hammer", "hat", "ghost", "cheese", "helicopter", "fire",
    "basketball", "sandwich", "moon", "bell", "skull", "cow", "flower", "bird",
)  # fmt: skip
STYLES = ("noto", "twemoji", "emojione", "fluent", "fluent flat")


@dataclass
class Row:
    """A method on all pictures (N, 3, H, W) in [0, 1].

    ``evaluations`` is of each picture, (N,); ``spared`` the share of pictures that had one
    evaluation alone, for each step.
    """

    name: str
    pictures: Tensor
    evaluations: np.ndarray
    spared: list[float]
    ssim: np.ndarray | None = None
    psnr: np.ndarray | None = None
    alignment: np.ndarray | None = None

    def compare(self, full: Tensor, judge, texts: Tensor) -> None:
        a, b = self.pictures, full
        found = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        self.ssim = found.double().numpy()
        error = (a - b).double().square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        self.psnr = (-10 * error.log10()).numpy()
        seen = image_features(judge, (a.permute(0, 2, 3, 1) * 255).round().byte().numpy())
        self.alignment = cosine_similarity(seen, texts).double().numpy()


def draw(pipe, name: str, guider: Guider, jobs: list[Settings]) -> Row:
    pictures, evaluations, single = [], [], 0
    for start in range(0, len(jobs), BATCH):
        batch = jobs[start : start + BATCH]
        with guided(pipe, guider, quiet=True) as run:
            images = sample(pipe, batch, output_type="pt")
        pictures.append(torch.stack(images).float().cpu())
        evaluations += run.last.evaluations
        single = single + np.array([[n == 1 for n in r.evaluations] for r in run.records]).sum(1)
    spared = (single / len(jobs)).tolist()
    return Row(name, torch.cat(pictures), np.array(evaluations, dtype=float), spared)


def jobs_of(prompts: list[str], count: int, seed: int, steps: int = STEPS) -> list[Settings]:
    return [
        Settings(prompts[i % len(prompts)], None, seed=seed + i, num_inference_steps=steps)
        for i in range(count)
    ]


def methods(scale: float, fit: Fit) -> dict[str, Guider]:
    made = {
        f"Adaptive {t:g} ({space})": CFG(Adaptive(scale, threshold=t, space=space))
        for space, thresholds in (("x0", X0), ("eps", EPS))
        for t in thresholds
    }
    for t, keep in KEPT:
        made[f"Stale {t:g} (kept in {keep})"] = CFG(scale, reference=Stale(t, keep=keep))
    made |= {f"StepAG {share:g}": CFG(StepAG(scale, share=share)) for share in (0.25, 0.5)}
    made["LinearAG"] = CFG(scale, reference=LinearAG(fit.coefficients))
    return made


def measure(pipe, scale: float, pictures: int, paths: int) -> tuple[list[Row], Fit]:
    """All rows, the first being CFG at 20 steps."""
    seen = [
        f"{name}, {style} style" for name in FITTED for style in ("noto", "noto blob", *STYLES[1:])
    ]
    random.Random(0).shuffle(seen)
    fit = fit_linear_ag(
        pipe, jobs_of(seen[24:], paths, 0), scale,
        held_out=jobs_of(seen[:24], -(-paths // 5), paths), batch_size=BATCH,
    )  # fmt: skip
    prompts = [f"{name}, {style} style" for name in NAMES for style in STYLES]
    random.Random(1).shuffle(prompts)
    full = draw(pipe, "CFG, 20 steps", CFG(scale), jobs_of(prompts, pictures, 10_000))
    rows = [full]
    todo = {f"CFG, {n} steps": (CFG(scale), n) for n in FEWER}
    todo |= {name: (guider, STEPS) for name, guider in methods(scale, fit).items()}
    for name, (guider, steps) in tqdm(todo.items(), desc=f"scale {scale:g}"):
        rows.append(draw(pipe, name, guider, jobs_of(prompts, pictures, 10_000, steps)))
    judge = guiders.models.load("emoji-judge")
    tokenizer = guiders.models.tokenizer("emoji-judge")
    captions = [job.prompt for job in jobs_of(prompts, pictures, 10_000)]
    texts = text_features(judge, tokenizer, captions)
    for row in rows:
        row.compare(full.pictures, judge, texts)
    return rows, fit


def naive(rows: list[Row], what: str, evaluations: float) -> np.ndarray:
    """The figure of each picture by CFG with fewer steps at as many evaluations, (N,)."""
    curve = sorted((r for r in rows if r.name in {f"CFG, {n} steps" for n in FEWER}),
                   key=lambda r: r.evaluations[0])  # fmt: skip
    costs = [r.evaluations[0] for r in curve]
    values = np.stack([getattr(r, what) for r in curve], 1)
    return np.array([np.interp(evaluations, costs, one) for one in values])


def text_of(scale: float, rows: list[Row], fit: Fit) -> list[str]:
    lines = [
        f"## CFG at scale {scale:g}",
        "",
        "| | evaluations | SSIM | PSNR, dB | SSIM less that of CFG at as many | PSNR less that | "
        "alignment less that of 20 steps |",
        "|---|---|---|---|---|---|---|",
    ]
    low, high = 2 * min(FEWER), 2 * max(FEWER)
    for row in sorted(rows[1:], key=lambda r: -float(r.evaluations.mean())):
        cost = float(row.evaluations.mean())
        cells = [f"{bootstrap(row.ssim)}", decibels(bootstrap(row.psnr))]
        if row.name.startswith("CFG") or not low <= cost <= high:
            cells += ["-", "-"]
        else:
            cells.append(f"{bootstrap(row.ssim - naive(rows, 'ssim', cost))}")
            cells.append(decibels(bootstrap(row.psnr - naive(rows, "psnr", cost))))
        cells.append(f"{bootstrap(row.alignment - rows[0].alignment)}")
        lines.append(f"| {row.name} | {cost:.1f} | {' | '.join(cells)} |")
    shown = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19]
    lines += [
        "",
        "Pictures, in per cent, for which a step evaluated no second prediction:",
        "",
        "| step | " + " | ".join(map(str, shown)) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for row in rows[1:]:
        if row.name.startswith(("Adaptive", "LinearAG")):
            cells = [f"{100 * row.spared[i]:.0f}" for i in shown]
            lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return [*lines, "", "The fit of LinearAG:", "", "```", str(fit), "```", ""]


def decibels(estimate: Estimate) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*estimate)


def plot(results: dict[float, list[Row]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(6 * len(results), 4.5), sharey=True)
    kinds = {
        "CFG": "fewer steps of CFG", "Adaptive (x0)": "Adaptive, x0",
        "Adaptive (eps)": "Adaptive, eps", "Stale eps)": "Stale, kept in eps",
        "Stale x0)": "Stale, kept in x0", "StepAG": "StepAG", "LinearAG": "LinearAG",
    }  # fmt: skip
    for axis, (scale, rows) in zip(np.atleast_1d(axes), results.items(), strict=True):
        for kind, label in kinds.items():
            first, _, space = kind.partition(" ")
            chosen = [r for r in rows[1:] if r.name.startswith(first) and r.name.endswith(space)]
            points = sorted((r.evaluations.mean(), r.ssim.mean()) for r in chosen)
            style = "k-o" if kind == "CFG" else "--o"
            axis.plot(*zip(*points, strict=True), style, label=label, markersize=5, linewidth=1)
        axis.set_title(f"scale {scale:g}")
        axis.set_xlabel("evaluations per picture")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("SSIM to 20 steps of CFG (40 evaluations)")
    np.atleast_1d(axes)[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--paths", type=int, default=200)
    parser.add_argument("--scales", type=float, nargs="+", default=[4.0, 7.5])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pipe = load_pipeline("emoji")
    pipe.set_progress_bar_config(disable=True)
    lines = [
        "# Adaptive Guidance and its relatives on the emoji model",
        "",
        f"`python benchmarks/adaptive.py --pictures {args.pictures} --paths {args.paths}`: "
        f"{args.pictures} pictures a row, {STEPS} steps of {type(pipe.scheduler).__name__}; "
        f"guiders {guiders.__version__}, torch {torch.__version__}. SSIM and PSNR are to CFG at "
        "20 steps with the same prompt and seed, alignment is the cosine of picture and caption to "
        "emoji-judge; intervals are 95 % bootstraps over pictures, those of differences paired. "
        "Two pictures without a difference count as 100 dB. *CFG at as many* evaluations is "
        "interpolated between its rows.",
        "",
    ]
    results: dict[float, list[Row]] = {}
    for scale in args.scales:
        results[scale], fit = measure(pipe, scale, args.pictures, args.paths)
        lines += text_of(scale, results[scale], fit)
        print("\n".join(lines), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        chart = args.out.with_suffix(".png")
        plot(results, chart)
        lines.insert(4, f"![SSIM against evaluations]({chart.name})\n")
        args.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
