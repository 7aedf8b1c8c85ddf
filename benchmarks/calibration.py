"""Does intent keep its promise on prompts that the profile has not seen?

    python benchmarks/calibration.py --out benchmarks/results/calibration-cpu.md

The profile is the one that ships for the emoji model at 20 steps, or ``--profile``. Everything is
drawn with other prompts and seeds. Intervals are 95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guiders
import numpy as np
import torch
from guiders import APG, CFG, Adaptive, Guider, Interval, Match, Profile, Term, WeakModel, guided
from guiders.evals import bootstrap, load_prompts
from guiders.guidance.types import dot
from guiders.pipelines.generate import Settings, load_pipeline, sample
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

STEPS, BATCH, SEED = 20, 32, 100_000
WEAK = WeakModel("emoji-weak")


@dataclass
class Seen:
    """A guider on all prompts (N): pictures (N, 3, H, W), evaluations and effective scales."""

    guider: Guider
    pictures: Tensor
    evaluations: np.ndarray
    effective: np.ndarray


class Bench:
    """A pipeline, its profile and prompts that the profile has not seen."""

    def __init__(self, pipe: Any, profile: Profile | None, prompts: list[str], quiet: bool) -> None:
        self.pipe, self.profile, self.prompts, self.quiet = pipe, profile, prompts, quiet

    def see(self, guider: Guider, steps: int = STEPS, diagnose: bool = False) -> Seen:
        jobs = [
            Settings(prompt, None, num_inference_steps=steps, seed=SEED + n)
            for n, prompt in enumerate(self.prompts)
        ]
        pictures, evaluations, effective, resolved = [], [], [], guider
        for start in range(0, len(jobs), BATCH):
            batch = jobs[start : start + BATCH]
            with guided(
                self.pipe, guider, quiet=True, diagnose=diagnose, profile=self.profile
            ) as run:
                images = sample(self.pipe, batch, output_type="pt")
            resolved = run.guider  # type: ignore[assignment]
            pictures.append(torch.stack([torch.as_tensor(image) for image in images]))
            evaluations += run.last.evaluations
            if diagnose:
                scales = [r.diagnosis.effective_scale for r in run.records if r.diagnosis]
                effective.append(np.mean(scales, axis=0))
        return Seen(
            resolved, torch.cat(pictures).float(), np.array(evaluations),
            np.concatenate(effective) if diagnose else np.zeros(0),
        )  # fmt: skip


def estimate(values: np.ndarray, digits: int = 3, unit: str = "") -> str:
    value, low, high = (f"{number:.{digits}f}" for number in bootstrap(values))
    return f"{value}{unit} ({low} to {high})"


def saves(bench: Bench, wanted: list[float], guiders_: dict[str, Any]) -> list[str]:
    """How much is saved where a share is asked for."""
    lines = [
        "| asked | guider | threshold | saved on unseen prompts | off by, points |",
        "|---|---|---|---|---|",
    ]
    for name, make in tqdm(guiders_.items(), desc="saved", disable=bench.quiet):
        for save in wanted:
            seen = bench.see(make(save))
            gate: Any = seen.guider.terms[0].when
            saved = 1 - seen.evaluations / (2 * STEPS)
            off = 100 * (saved.mean() - save)
            lines.append(
                f"| {100 * save:g} % | {name} | {gate.threshold:.5f} | "
                f"{estimate(100 * saved, 1, ' %')} | {off:+.1f} |"
            )
    return lines


def matches(bench: Bench, pairs: list[tuple[str, Any, float]]) -> list[str]:
    """The effective scale where one is asked for."""
    lines = [
        "| guider | as strong as | scale found | effective scale on unseen prompts | off by |",
        "|---|---|---|---|---|",
    ]
    for name, make, target in tqdm(pairs, desc="matched", disable=bench.quiet):
        seen = bench.see(make(target), diagnose=True)
        term: Any = seen.guider.terms[0]
        off = 100 * (seen.effective.mean() / target - 1)
        lines.append(
            f"| {name} | CFG {target:g} | {term.when} | {estimate(seen.effective, 2)} | "
            f"{off:+.1f} % |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_pipeline("emoji")
    pipe.set_progress_bar_config(disable=True)
    profile = Profile.load(args.profile) if args.profile else None
    texts = list(load_prompts("emoji").texts)
    random.Random(1).shuffle(texts)
    bench = Bench(pipe, profile, texts[-args.prompts :], args.quiet)
    cfg = lambda scale: lambda save: CFG(Adaptive(scale, save=save))
    apg = lambda scale: lambda save: APG(Adaptive(scale, save=save))
    lines = saves(
        bench,
        [0.1, 0.2, 0.3, 0.4],
        {
            "CFG 2": cfg(2),
            "CFG 4": cfg(4),
            "CFG 8": cfg(8),
            "CFG 3": cfg(3),
            "APG 4": apg(4),
            "APG 10": apg(10),
        },
    )
    print("\n".join(lines), flush=True)
    lines = matches(
        bench,
        [
            (name, make, target)
            for name, make in {
                "APG": lambda t: APG(Match(t)),
                "APG, radius 2.5": lambda t: APG(Match(t), rescale=2.5),
                "APG, projection alone": lambda t: APG(Match(t), rescale=0, momentum=0),
                "APG, momentum -0.75, eta 0.3": lambda t: APG(Match(t), momentum=-0.75, eta=0.3),
                "APG, radius p90": lambda t: APG(Match(t), rescale="p90"),
            }.items()
            for target in (2, 3, 4, 7.5)
        ]
        + [("autoguidance", lambda t: CFG(Match(t), reference=WEAK), t) for t in (1.2, 1.3, 1.4)],
    )
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
