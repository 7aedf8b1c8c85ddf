"""Gradient-free classifier guidance beside CFG and autoguidance, at equal evaluations.

Draws prompts that are easily confused, with emoji-CLIP as the classifier, and asks emoji-judge,
which no method sees, whether each picture is what was asked for: the share of pictures whose own
prompt it ranks first among all of them (*precision*), and the mean cosine to it. Rows share seeds;
the intervals are 95 % bootstraps over pictures, those of differences paired.

    python benchmarks/gfcg.py --out benchmarks/results/gfcg-cpu.md
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import numpy as np
import torch
from guiders import CFG, Confusion, Guider, Negative, WeakModel, guided, models
from guiders.evals import bootstrap, image_features, text_features
from torch.nn.functional import normalize
from tqdm import tqdm

NAMES = (
    "red heart", "orange heart", "yellow heart", "green heart", "blue heart", "purple heart",
    "cat face", "dog face", "fox", "lion", "tiger face", "bear", "rabbit face", "panda",
    "grinning face", "crying face", "sleeping face", "clown face", "red apple", "green apple",
    "tomato", "cherries", "lemon", "banana",
)  # fmt: skip
BATCH = 48


class World:
    """The models, and what the judge makes of the prompts."""

    def __init__(self, seeds: int) -> None:
        self.pipe = models.load("emoji")
        self.pipe.set_progress_bar_config(disable=True)
        self.judge = models.load("emoji-judge")
        self.prompts = [name for name in NAMES for _ in range(seeds)]
        self.seeds = list(range(len(self.prompts)))
        tokenizer = models.tokenizer("emoji-judge")
        self.texts = normalize(text_features(self.judge, tokenizer, NAMES), dim=1)

    def row(self, guider: Guider, steps: int) -> dict:
        """Draw and judge."""
        pictures, spent = [], 0
        for start in tqdm(range(0, len(self.prompts), BATCH), desc=f"{guider}"[:50], leave=False):
            rows = slice(start, start + BATCH)
            with guided(self.pipe, guider, quiet=True) as run:
                pictures += self.pipe(
                    self.prompts[rows], num_inference_steps=steps,
                    generator=[torch.Generator().manual_seed(s) for s in self.seeds[rows]],
                ).images  # fmt: skip
            spent += sum(run.last.evaluations)
        scores = normalize(image_features(self.judge, pictures), dim=1) @ self.texts.T
        own = torch.tensor([NAMES.index(prompt) for prompt in self.prompts])
        return {
            "evaluations": spent / len(self.prompts),
            "right": (scores.argmax(dim=1) == own).numpy().astype(float),
            "cosine": scores.gather(1, own[:, None]).squeeze(1).numpy(),
        }


def confused(**settings: object) -> Confusion:
    return Confusion(NAMES, "emoji-clip", **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gfcg-cpu.md"))
    parser.add_argument("--seeds", type=int, default=8, help="pictures of each prompt")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    world, steps = World(args.seeds), args.steps
    weak = "emoji-weak"
    auto = {"otherwise": WeakModel(weak), "model": weak, "gain": "one", "threshold": 0.9}
    mixed = {"otherwise": Negative(), "gain": "one", "threshold": 0.9}
    plan: list[tuple[str, Guider, int]] = [
        ("unguided", CFG(1), steps),
        ("CFG 2", CFG(2), steps),
        ("CFG 4", CFG(4), steps),
        ("GFCG mixed with CFG 2", CFG(2, reference=confused(**mixed)), steps),
        ("GFCG mixed with CFG 4", CFG(4, reference=confused(**mixed)), steps),
        ("autoguidance 1.5", CFG(1.5, reference=WeakModel(weak)), steps),
        ("autoguidance 2", CFG(2, reference=WeakModel(weak)), steps),
        ("GFCG with autoguidance 1.5", CFG(1.5, reference=confused(**auto)), steps),
        ("GFCG with autoguidance 2", CFG(2, reference=confused(**auto)), steps),
        ("GFCG 3", CFG(3, reference=confused(threshold=0.9)), steps),
        ("GFCG 6", CFG(6, reference=confused(threshold=0.9)), steps),
    ]
    found = {name: world.row(guider, count) for name, guider, count in tqdm(plan, desc="rows")}
    bases = {
        name: name.removeprefix("GFCG mixed with ").removeprefix("GFCG with ") for name in found
    }
    for scale in (3, 6):  # alone: CFG at the same price, in fewer steps
        count = max(2, round(found[f"GFCG {scale}"]["evaluations"] / 2))
        bases[f"GFCG {scale}"] = f"CFG 4 in {count} steps"
        for cfg in (2, 4):
            name = f"CFG {cfg} in {count} steps"
            bases[name] = name
            if name not in found:
                found[name] = world.row(CFG(cfg), count)
    lines = [
        "# Gradient-free classifier guidance: precision at equal evaluations",
        "",
        f"`python benchmarks/gfcg.py --seeds {args.seeds} --steps {steps}`: {len(NAMES)} prompts, "
        f"{len(world.prompts)} pictures a row, {steps} steps of DDIM unless said otherwise; "
        f"{platform.machine()}, CPU. Precision is the share of pictures whose own prompt the "
        f"second judge ranks first of the {len(NAMES)}.",
        "",
        "*Without* is the same guider without the classifier; of GFCG alone, CFG 4 at the same "
        "price.",
        "",
        "| | evaluations | precision | minus that without, paired | judge's cosine |",
        "|---|---|---|---|---|",
    ]
    for name, row in found.items():
        base = bases[name]
        gain = "-" if base == name else percent(row["right"] - found[base]["right"])
        lines.append(
            f"| {name} | {row['evaluations']:.1f} | {percent(row['right'])} | {gain} | "
            f"{bootstrap(row['cosine'])} |"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n")
    print(args.out.read_text())


def percent(values: np.ndarray) -> str:
    value, low, high = (100 * v for v in bootstrap(values))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
