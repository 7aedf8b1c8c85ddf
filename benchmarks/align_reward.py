"""Does the reward of unseen prompts rise? ``guiders align`` on the emoji model, several seeds.

    python benchmarks/align_reward.py light --out benchmarks/results/align-reward-light.md
    python benchmarks/align_reward.py full --seeds 0 --out benchmarks/results/align-reward-full.md

A run that was stopped goes on when this is started again. The rise is the mean of the last quarter
of the evaluations minus that of the first, of the same prompts and noise; its interval is a 95 %
bootstrap over prompts. The held-out reward is emoji-judge's, which nothing is trained with.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import guiders
import numpy as np
import torch
from guiders.evals import Estimate, bootstrap

COMMON = (
    "--reward emoji-clip --eval-prompts 12 --eval-samples 2 --mixed-precision bf16 "
    "--checkpointing none --max-steps 60"
)
FLAGS = {
    "full": "--batch-size 8 --num-inference-steps 30 --eval-every 10",
    "light": "--batch-size 4 --num-inference-steps 10 --eval-every 15 --truncation uniform",
}
COLUMNS = ("reward", "held_out_reward", "diversity")


def quarters(folder: Path) -> dict[str, np.ndarray]:
    """For each column, the change (prompts,) from the first quarter to the last."""
    rows = list(csv.DictReader((folder / "unseen-pictures.csv").open()))
    end = max(int(row["step"]) for row in rows)
    parts: dict[str, dict[str, list[list[float]]]] = {
        c: defaultdict(lambda: [[], []]) for c in COLUMNS
    }
    for row in rows:
        step = int(row["step"])
        for column in COLUMNS:
            if step <= end / 4 or step >= 3 * end / 4:
                parts[column][row["prompt"]][step >= 3 * end / 4].append(float(row[column]))
    return {
        column: np.array([np.mean(last) - np.mean(first) for first, last in prompts.values()])
        for column, prompts in parts.items()
    }


def ends(folder: Path) -> tuple[dict, dict]:
    rows = list(csv.DictReader((folder / "unseen.csv").open()))
    return rows[0], rows[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=FLAGS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("build/align"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    flags = f"{FLAGS[args.size]} {COMMON}"
    folders = [args.runs / f"{args.size}-{seed}" for seed in args.seeds]
    for seed, folder in zip(args.seeds, folders, strict=True):
        command = [*flags.split(), "--seed", str(seed), "--out", str(folder)]
        subprocess.run([sys.executable, "-m", "guiders", "align", *command], check=True)
    changes = [quarters(folder) for folder in folders]
    lines = [
        "# Alignment of the emoji model to emoji-clip",
        "",
        f"`guiders align {flags} --seed N`; guiders {guiders.__version__}, torch "
        f"{torch.__version__}. Twelve unseen prompts, two pictures of each.",
        "",
        "| seed | reward, first to last | held-out reward | diversity | CPU-minutes of training |",
        "|---|---|---|---|---|",
    ]
    for seed, folder in zip(args.seeds, folders, strict=True):
        first, last = ends(folder)
        cells = [f"{float(first[c]):.3f} to {float(last[c]):.3f}" for c in COLUMNS]
        log = list(csv.DictReader((folder / "log.csv").open()))
        minutes = sum(float(row["cpu_seconds"]) for row in log) / 60
        lines.append(f"| {seed} | {' | '.join(cells)} | {minutes:.1f} |")
    lines += ["", "Last quarter of the steps minus the first, 95 % bootstrap over prompts:", ""]
    lines += ["| seed | reward | held-out reward | diversity |", "|---|---|---|---|"]

    def row(name: str, values: dict[str, np.ndarray]) -> str:
        estimates: list[Estimate] = [bootstrap(values[column]) for column in COLUMNS]
        return f"| {name} | {' | '.join(map(str, estimates))} |"

    for seed, change in zip(args.seeds, changes, strict=True):
        lines.append(row(str(seed), change))
    if len(changes) > 1:
        together = {c: np.mean([change[c] for change in changes], axis=0) for c in COLUMNS}
        lines.append(row("mean of the seeds", together))
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)


if __name__ == "__main__":
    main()
