"""Measure a trained emoji pipeline: the figures and the contact sheet of its model card.

Needs the pictures (``data.py``). Colour figures are those of ``guiders.evals``, at the same prompts
and seeds for every scale, with the spread of a bootstrap over pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from data import Emoji
from guiders import APG, CFG, Adaptive, Guider, guided
from guiders.evals import clipped, contrast, saturation
from guiders.pipelines.generate import load_pipeline
from guiders.pipelines.grid import layout
from tqdm import tqdm

GUIDERS = {
    "unguided": CFG(1),
    "CFG 2": CFG(2),
    "CFG 4": CFG(4),
    "CFG 8": CFG(8),
    "CFG 12": CFG(12),
    "APG 8": APG(8),
    "APG 12": APG(12),
    "CFG 4 + Adaptive": CFG(Adaptive(4)),
}
FIGURES = {"saturation": saturation, "contrast": contrast, "clipped": clipped}
SHEET = [
    "red heart", "grinning face", "rocket", "red apple", "cat face", "umbrella", "sun", "pizza",
    "soccer ball", "dog face", "key", "airplane", "clown face", "banana", "crown", "octopus",
]  # fmt: skip
STYLES = ["noto", "twemoji", "fluent", "emojione"]


def draw(pipe, guider: Guider, prompts: list[str], steps: int) -> tuple[list, float]:
    """One picture of each prompt, seeds counting up, and the mean evaluations of a picture."""
    pictures, spent = [], 0
    for start in range(0, len(prompts), 32):
        batch = prompts[start : start + 32]
        seeds = range(start, start + len(batch))
        with guided(pipe, guider, quiet=True) as run:
            pictures += pipe(
                batch, num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            ).images  # fmt: skip
        spent += sum(run.last.evaluations)
    return pictures, spent / len(prompts)


def spread(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean and the 95 % bootstrap interval over pictures."""
    rows = np.random.default_rng(seed).integers(len(values), size=(2000, len(values)))
    low, high = np.percentile(values[rows].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


@torch.no_grad()
def reconstruction(pipe, emoji: Emoji) -> float:
    """The mean L1 error of the autoencoder on held-out pictures, in [-1, 1]."""
    target = emoji.pixels()[emoji.held_out()]
    output = torch.cat([pipe.vae(x).sample for x in target.split(128)])
    return (output - target).abs().mean().item()


def rows_of(left: list, right: list) -> list[list]:
    """Rows of the styles of one name, with those of another beside them."""
    n = len(STYLES)
    return [left[i : i + n] + right[i : i + n] for i in range(0, len(left), n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--data", type=Path, default=Path("build/emoji.npz"))
    parser.add_argument("--pictures", type=int, default=256, help="for the colour figures")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("build/report"))
    args = parser.parse_args()
    emoji = Emoji.load(args.data)
    pipe = load_pipeline(args.model)
    pipe.set_progress_bar_config(disable=True)
    args.out.mkdir(parents=True, exist_ok=True)

    train = np.flatnonzero(~emoji.held_out())
    chosen = np.random.default_rng(0).choice(train, args.pictures, replace=False)
    prompts = [emoji.caption(i) for i in chosen]
    rows = {"real pictures": {n: spread(f(emoji.images[chosen])) for n, f in FIGURES.items()}}
    for name, guider in tqdm(GUIDERS.items(), desc="colour"):
        pictures, evaluations = draw(pipe, guider, prompts, args.steps)
        rows[name] = {n: spread(f(pictures)) for n, f in FIGURES.items()}
        rows[name]["evaluations"] = evaluations
    report = {
        "pictures": args.pictures,
        "steps": args.steps,
        "reconstruction_l1": reconstruction(pipe, emoji),
        "rows": rows,
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"| | {' | '.join(FIGURES)} | evaluations |\n|---|{'---|' * (len(FIGURES) + 1)}")
    for name, row in rows.items():
        cells = [f"{row[n][0]:.3f} ({row[n][1]:.3f} to {row[n][2]:.3f})" for n in FIGURES]
        print(f"| {name} | {' | '.join(cells)} | {row.get('evaluations', 0):.1f} |")
    print(f"autoencoder, L1 on held-out pictures: {report['reconstruction_l1']:.4f}")

    captions = [f"{name}, {style} style" for name in SHEET for style in STYLES]
    pictures, _ = draw(pipe, CFG(4), captions, 30)
    held = {emoji.caption(i) for i in np.flatnonzero(emoji.held_out())}
    notes = ["held out" if caption in held else "" for caption in captions]
    half = len(captions) // 2  # two names in a row
    sheet = layout(
        rows_of(pictures[:half], pictures[half:]),
        rows_of(notes[:half], notes[half:]),
        STYLES * 2,
        [f"{SHEET[i]} / {SHEET[i + len(SHEET) // 2]}" for i in range(len(SHEET) // 2)],
    )
    sheet.save(args.out / "contact-sheet.png", optimize=True)


if __name__ == "__main__":
    main()
