"""Does intent keep its promise on prompts that the profile has not seen?

    python benchmarks/calibration.py --out benchmarks/results/calibration-cpu.md

The profile is the one that ships for the emoji model at 20 steps. Everything is drawn with other
prompts and seeds. Intervals are 95 % bootstrap intervals over prompts. SSIM needs torchmetrics.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guiders import APG, CFG, Adaptive, Guider, Interval, Match, Profile, WeakModel, guided, models
from guiders.evals import bootstrap, load_prompts
from guiders.guidance.terms import apg
from guiders.pipelines.generation.generate import sample
from guiders.pipelines.generation.load import load_pipeline
from guiders.pipelines.generation.settings import Settings
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

STEPS, BATCH, SEED = 20, 32, 100_000
WEAK = WeakModel("emoji-weak")
Make = Callable[[float], Guider]
SAVED: dict[str, Make] = {
    "CFG 2": lambda save: CFG(Adaptive(2, save=save)),
    "CFG 4": lambda save: CFG(Adaptive(4, save=save)),
    "CFG 8": lambda save: CFG(Adaptive(8, save=save)),
    "CFG 3": lambda save: CFG(Adaptive(3, save=save)),
    "CFG 4, cosine of eps": lambda save: CFG(Adaptive(4, save=save, space="eps")),
    "APG 10": lambda save: APG(Adaptive(10, save=save)),
    "autoguidance 2": lambda save: CFG(Adaptive(2, save=save), reference=WEAK),
}
MATCHED: dict[str, Make] = {
    "APG": lambda scale: APG(Match(CFG(scale))),
    "APG, radius 2.5": lambda scale: APG(Match(CFG(scale)), rescale=2.5),
    "APG, radius p90": lambda scale: APG(Match(CFG(scale)), rescale="p90"),
    "APG, projection alone": lambda scale: APG(Match(CFG(scale)), rescale=0, momentum=0),
    "APG, momentum -0.75, eta 0.3": lambda s: APG(Match(CFG(s)), momentum=-0.75, eta=0.3),
}


@dataclass
class Seen:
    """A guider on N prompts: pictures (N, 3, H, W), evaluations and effective scales (N)."""

    guider: Any
    pictures: Tensor
    evaluations: np.ndarray
    effective: np.ndarray


class Bench:
    """A pipeline, its profile, and prompts that the profile has not seen."""

    def __init__(self, pipe: Any, profile: Profile, prompts: Sequence[str]) -> None:
        self.pipe, self.profile, self.prompts = pipe, profile, prompts

    def see(self, guider: Guider, steps: int = STEPS, diagnose: bool = False) -> Seen:
        jobs = [
            Settings(prompt, None, num_inference_steps=steps, seed=SEED + number)
            for number, prompt in enumerate(self.prompts)
        ]
        pictures, evaluations, effective, resolved = [], [], [], None
        for start in range(0, len(jobs), BATCH):
            with guided(
                self.pipe, guider, quiet=True, diagnose=diagnose, profile=self.profile
            ) as run:
                images = sample(self.pipe, jobs[start : start + BATCH], output_type="pt")
            resolved = run.guider
            pictures.append(torch.stack([torch.as_tensor(image) for image in images]))
            evaluations += run.last.evaluations
            if diagnose:
                rows = [r.diagnosis.effective_scale for r in run.records if r.diagnosis]
                effective.append(np.mean(rows, axis=0))
        return Seen(
            resolved, torch.cat(pictures).float(), np.array(evaluations),
            np.concatenate(effective) if diagnose else np.zeros(0),
        )  # fmt: skip


def estimate(values: np.ndarray, digits: int = 3, unit: str = "") -> str:
    value, low, high = (f"{number:.{digits}f}" for number in bootstrap(values))
    return f"{value}{unit} ({low} to {high})"


def saves(bench: Bench, shares: Sequence[float]) -> list[str]:
    """How much is saved where a share is asked for."""
    lines = [
        "| guider | asked to save | threshold | saved on unseen prompts | off by, points |",
        "|---|---|---|---|---|",
    ]
    for name, make in tqdm(SAVED.items(), desc="saved"):
        for save in shares:
            seen = bench.see(make(save))
            saved = 1 - seen.evaluations / (2 * STEPS)
            off = 100 * (saved.mean() - save)
            lines.append(
                f"| {name} | {100 * save:g} % | {seen.guider.when.threshold:.5f} | "
                f"{estimate(100 * saved, 1, ' %')} | {off:+.1f} |"
            )
    return lines


def matches(bench: Bench, pairs: Sequence[tuple[str, Make, float]]) -> list[str]:
    """The effective scale where one is asked for."""
    lines = [
        "| guider | as strong as | scale found | effective scale on unseen prompts | off by |",
        "|---|---|---|---|---|",
    ]
    for name, make, scale in tqdm(pairs, desc="matched"):
        seen = bench.see(make(scale), diagnose=True)
        off = 100 * (seen.effective.mean() / scale - 1)
        lines.append(
            f"| {name} | CFG {scale:g} | {seen.guider.when} | {estimate(seen.effective, 2)} | "
            f"{off:+.1f} % |"
        )
    return lines


def shortened(bench: Bench, percentiles: Sequence[int]) -> list[str]:
    """The share of gaps beyond a radius that is given as a percentile."""
    lines = ["| guider | radius found, RMS | gaps shortened on unseen prompts |", "|---|---|---|"]
    shrink, counts = apg.shrink, []

    def counted(vector: Tensor, radius: float) -> Tensor:
        factors = shrink(vector, radius)
        counts.extend((factors < 1).tolist())
        return factors

    apg.shrink = counted
    for percentile in tqdm(percentiles, desc="shortened"):
        counts.clear()
        seen = bench.see(APG(4, rescale=f"p{percentile}"))
        lines.append(
            f"| APG 4, rescale p{percentile} | {seen.guider.rescale_rms:.4g} | "
            f"{100 * np.mean(counts):.1f} % |"
        )
    apg.shrink = shrink
    return lines


def keeps(bench: Bench, scales: Sequence[float], shares: Sequence[float]) -> list[str]:
    """What an interval keeps of the effect, and fewer steps of plain CFG beside it."""
    lines = [
        "| scale | asked to keep | sigma | kept on unseen prompts | evaluations | "
        "SSIM to full guidance | the same of fewer steps: kept | evaluations | SSIM |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for scale in tqdm(scales, desc="kept"):
        full, none = (bench.see(CFG(w)).pictures for w in (scale, 1.0))
        for share in shares:
            part = bench.see(CFG(Interval(scale, keep=share)))
            fewer = bench.see(CFG(scale), math.ceil(part.evaluations.mean() / 2))
            gate, sides = part.guider.when, []
            for seen in (part, fewer):
                lost = math.sqrt(square(seen.pictures - full) / square(full - none))
                sides.append(
                    f"{100 * (1 - lost):.1f} % | {seen.evaluations.mean():g} | "
                    f"{estimate(ssim(seen.pictures, full))}"
                )
            high = "inf" if gate.high is None else f"{gate.high:g}"
            lines.append(
                f"| {scale:g} | {100 * share:g} % | ({gate.low:g}, {high}] | {' | '.join(sides)} |"
            )
    return lines


def square(difference: Tensor) -> float:
    return float(difference.double().square().mean())


def ssim(pictures: Tensor, others: Tensor) -> np.ndarray:
    values = structural_similarity_index_measure(pictures, others, data_range=1.0, reduction="none")
    return torch.as_tensor(values).double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, help="of the emoji model at 20 steps")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_pipeline("emoji")
    pipe.set_progress_bar_config(disable=True)
    shipped = next(path for path in models.profiles() if path.stem.endswith(f"-{STEPS}"))
    profile = Profile.load(args.profile or shipped)
    texts = list(load_prompts("emoji").texts)
    random.Random(profile.facts["seed"]).shuffle(texts)  # as the profile did
    unseen = texts[profile.facts["prompts"] :]
    random.Random(1).shuffle(unseen)
    bench = Bench(pipe, profile, unseen[: args.prompts])
    auto = [
        ("autoguidance", lambda scale: CFG(Match(CFG(scale)), reference=WEAK), scale)
        for scale in (1.2, 1.3, 1.4)
    ]
    pairs = [(name, make, s) for name, make in MATCHED.items() for s in (2, 4, 7.5)]
    effect = profile.effects[0].prompts
    sections = [
        ("Adaptive(save=...)", saves(bench, (0.1, 0.2, 0.3, 0.4))),
        ("Match(CFG(...))", matches(bench, [*pairs, *auto])),
        ('APG(rescale="p...")', shortened(bench, (50, 75, 90))),
        ("Interval(keep=...)", keeps(bench, (2, 4, 8), (0.8, 0.9, 0.95))),
    ]
    text = (
        "# Intent on unseen prompts\n\n"
        f"`python benchmarks/calibration.py`: the emoji model, {STEPS} steps, "
        f"{len(bench.prompts)} prompts and seeds that the profile has not seen. The profile is of "
        f"{profile.facts['prompts']} prompts, its effects of {effect}; it cost "
        f"{profile.cost:.2f} plain runs of its prompts for each scale. In brackets 95 % bootstrap "
        "intervals over prompts.\n"
    )
    for title, lines in sections:
        text += f"\n## {title}\n\n" + "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
