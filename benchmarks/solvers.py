"""Solvers at equal cost: EVODiff, DPM-Solver++ 2M and UniPC, on an exact mixture and on emoji.

    python benchmarks/solvers.py --out benchmarks/results

The mixture's error is the distance to the exact end of the same trajectory. For emoji it is the
distance of the latents to those of a run of many steps from the same noise, and the Frechet
distance of the pictures to those of the data, by emoji-clip. Both with the model's own trailing
timesteps and with Karras' levels.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import diffusers
import guiders
import numpy as np
import torch
from guiders import CFG, EDM, final, guided, models, sample
from guiders.evals import Moments, frechet_distance, image_features
from guiders.samplers import EVODiffMultistepScheduler, Mixture
from plot import Line, plot
from tqdm import tqdm

SOLVERS: dict[str, Any] = {
    "DPM-Solver++ 2M": diffusers.DPMSolverMultistepScheduler,
    "UniPC": diffusers.UniPCMultistepScheduler,
    "EVODiff": EVODiffMultistepScheduler,
}
LEVELS: dict[str, dict[str, Any]] = {
    "trailing": {"timestep_spacing": "trailing"},
    "Karras": {"use_karras_sigmas": True, "timestep_spacing": "linspace"},
}
COUNTS = [5, 8, 10, 12, 20]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NAMES = ["red heart", "rocket", "cat face", "pizza", "sun", "banana", "key", "grinning face"]
STYLES = ["noto", "twemoji", "fluent", "emojione"]
BATCH = 32


def mixture() -> dict[str, dict[str, list[float]]]:
    """Distance to the exact end, the median of 64: 20 Gaussians in 3 x 8 x 8 dimensions."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.randn(20, 3, 4, 4, generator=generator, dtype=torch.float64), size=(8, 8),
        mode="bilinear",
    )  # fmt: skip
    exact = Mixture(smooth.flatten(1), 0.05)
    noise = torch.randn(64, 3, 8, 8, generator=generator, dtype=torch.float64)
    table: dict[str, dict[str, list[float]]] = {}
    for levels, options in LEVELS.items():
        probe = diffusers.DPMSolverMultistepScheduler(**BETAS, **options)
        probe.set_timesteps(10)
        top = float(probe.sigmas[0])
        start = noise * math.sqrt(1 + top**2)
        many = EDM(sigma_max=top, sigma_min=1e-3)
        truth = final(sample(exact, many, x=start, num_inference_steps=200, progress=False)).x
        for name, kind in SOLVERS.items():
            row = table.setdefault(levels, {})[name] = []
            for count in COUNTS:
                scheduler = kind(**BETAS, **options)
                run = sample(
                    exact, scheduler, noise=noise, num_inference_steps=count, progress=False
                )
                error = (final(run).x - truth).square().flatten(1).mean(1).sqrt()
                row.append(float(error.median()))
    return table


class Emoji:
    """The shipped model under a guider, with fixed prompts and noise."""

    def __init__(self, pictures: int, scale: float) -> None:
        self.pipe = models.load("emoji")
        self.pipe.set_progress_bar_config(disable=True)
        self.clip = models.load("emoji-clip")
        self.guider = CFG(scale)
        words = [f"{name}, {style} style" for name in NAMES for style in STYLES]
        # most pictures have no name, as the data has many
        self.prompts = [words[i % len(words)] if i % 2 else "" for i in range(pictures)]
        self.config = self.pipe.scheduler.config
        self.data = Moments.load(models.statistics("emoji-clip", "train"))

    def latents(self, kind: Any, options: dict[str, Any], count: int, pictures: int) -> Any:
        self.pipe.scheduler = kind.from_config(self.config, **options)
        found = []
        for start in range(0, pictures, BATCH):
            rows = range(start, min(start + BATCH, pictures))
            with guided(self.pipe, self.guider, quiet=True):
                found.append(
                    self.pipe(
                        [self.prompts[row] for row in rows], num_inference_steps=count,
                        generator=[torch.Generator().manual_seed(row) for row in rows],
                        output_type="latent",
                    ).images
                )  # fmt: skip
        return torch.cat(found)

    @torch.no_grad()
    def distance(self, latents: torch.Tensor) -> float:
        """The Frechet distance of the decoded pictures to the data."""
        features = []
        for part in latents.split(BATCH):
            pixels = self.pipe.vae.decode(part / self.pipe.vae.config.scaling_factor).sample
            pictures = self.pipe.image_processor.postprocess(pixels, output_type="pil")
            features.append(image_features(self.clip, pictures))
        return frechet_distance(Moments.of(torch.cat(features)), self.data)


def emoji(pictures: int, references: int, many: int, scale: float) -> dict[str, Any]:
    model = Emoji(pictures, scale)
    table: dict[str, Any] = {"rmse": {}, "frechet": {}}
    for levels, options in LEVELS.items():
        truth = model.latents(diffusers.DPMSolverMultistepScheduler, options, many, references)
        for name, kind in SOLVERS.items():
            for count in tqdm(COUNTS, desc=f"{levels}, {name}"):
                latents = model.latents(kind, options, count, pictures)
                error = (latents[:references] - truth).square().mean().sqrt()
                found = {"rmse": float(error), "frechet": model.distance(latents)}
                for what, value in found.items():
                    table[what].setdefault(levels, {}).setdefault(name, []).append(value)
    return table


def markdown(table: dict[str, dict[str, list[float]]], digits: int) -> list[str]:
    lines = [
        f"| levels | solver | {' | '.join(map(str, COUNTS))} |",
        f"|---|---|{'---|' * len(COUNTS)}",
    ]
    for levels, rows in table.items():
        best = np.min(list(rows.values()), axis=0)
        for name, row in rows.items():
            cells = [
                f"**{value:.{digits}f}**" if value == low else f"{value:.{digits}f}"
                for value, low in zip(row, best, strict=True)
            ]
            lines.append(f"| {levels} | {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--references", type=int, default=32)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--again", choices=["all", "mixture"], default="all")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "solvers.json"
    found = {"mixture": mixture()}
    if args.again == "mixture":
        found = json.loads(kept.read_text()) | found
    else:
        found |= emoji(args.pictures, args.references, args.many, args.scale)
    kept.write_text(json.dumps(found, indent=1) + "\n")
    titles = {
        "mixture": "Mixture: distance to the exact end of the trajectory (median of 64)",
        "rmse": f"Emoji: distance to {args.many} steps of DPM-Solver++ 2M (root mean square)",
        "frechet": f"Emoji: Frechet distance to the data, {args.pictures} pictures",
    }
    lines = [
        "# Solvers at equal cost",
        "",
        f"`python benchmarks/solvers.py --pictures {args.pictures} --references {args.references} "
        f"--many {args.many} --scale {args.scale:g}`; guiders {guiders.__version__}, diffusers "
        f"{diffusers.__version__}, torch {torch.__version__}. One evaluation of the guided network "
        f"for each step; the columns are steps. Emoji is guided by CFG {args.scale:g}, half of its "
        "prompts empty. The least of each column is bold.",
    ]
    for what, title in titles.items():
        lines += ["", f"## {title}", "", *markdown(found[what], 2 if what == "frechet" else 4)]
        for levels, rows in found[what].items():
            picture = args.out / f"solvers-{what}-{levels.lower()}.png"
            series = [Line(name, COUNTS, row) for name, row in rows.items()]
            plot(picture, f"{title}, {levels} levels", "steps", series, log=what != "frechet")
            lines += ["", f"![{title}, {levels}]({picture.name})"]
    text = "\n".join(lines) + "\n"
    print(text)
    (args.out / "solvers.md").write_text(text)


if __name__ == "__main__":
    main()
