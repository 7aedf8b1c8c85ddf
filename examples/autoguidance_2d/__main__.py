"""Autoguidance against classifier-free guidance where the truth is known: in the plane.

The two-dimensional example of Karras et al. 2024 (arXiv:2406.02507), written anew: a class is a
tree of Gaussians, three small networks learn its exact score, and guiders sample it.

    pip install '.[examples]'
    python examples/autoguidance_2d                     # table and figure, with shipped networks
    python examples/autoguidance_2d --all               # also exact scores, and other scales
    python examples/autoguidance_2d --train --seed 1    # with other networks, trained in minutes

A network of one's own needs no more for a guider than to be called as ``network(x, sigma)`` and to
return the clean points; ``sampling.py`` is all of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from guiders import CFG, WeakModel
from metrics import Metrics, measure
from mixture import Mixture
from sampling import TITLES, draw, generator, methods, start
from torch import Tensor
from train import SHIPPED, load, save, train

BUILD = Path("build/autoguidance_2d")
SCALES = (1.25, 1.5, 2.0, 3.0, 4.0)
HEAD = """| | outliers | far | mean log p | variation | lost branches | missed | transport |
|---|---|---|---|---|---|---|---|"""


def run() -> None:
    parser = argparse.ArgumentParser(
        prog="autoguidance_2d", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="train; goes on where it was stopped")
    parser.add_argument("--seed", type=int, default=0, help="of the networks, with --train")
    parser.add_argument("--guide-seed", type=int, help="of the two guides, if it is another one")
    parser.add_argument("--weights", type=Path, help="folder of trained networks to read, or write")
    parser.add_argument("--all", action="store_true", help="also exact scores, and other scales")
    parser.add_argument("--samples", type=int, default=2**14)
    parser.add_argument("--sample-seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/autoguidance-2d.png"))
    args = parser.parse_args()
    if args.samples < 1:
        parser.error(f"argument --samples: is {args.samples}; allowed is a number of at least 1")
    guides = args.seed if args.guide_seed is None else args.guide_seed
    seeds = {"main": args.seed, "weak": guides, "both": guides}
    folder = args.weights or (BUILD / f"weights-{args.seed}-{guides}" if args.train else SHIPPED)
    if args.train:
        save({name: train(name, BUILD, seed) for name, seed in seeds.items()}, folder)
    elif not (folder / "main.safetensors").is_file():
        parser.error(f"argument --weights: is {folder}; allowed is a folder that --train wrote")
    begin = time.perf_counter()
    networks = load(folder)
    main, guiders = networks["main"], methods(networks["both"], networks["weak"])
    exact = Mixture("A")
    truth, again = (
        exact.sample(args.samples, generator=generator(args.sample_seed + i)) for i in (1, 2)
    )
    x = start(args.samples, args.sample_seed)

    def tell(name: str, points: Tensor) -> Metrics:
        found = measure(points, exact, truth)
        print(f"| {name} | {found.row()} |", flush=True)
        return found

    print(HEAD)
    reached = tell("exact samples", again)
    samples = {name: draw(main, guider, x) for name, guider in guiders.items()}
    found = {name: tell(TITLES[name], points) for name, points in samples.items()}
    curves: dict[str, dict[float, Metrics]] = {"CFG": {}, "autoguidance": {}}
    if args.all:
        perfect, both = (Mixture(classes, torch.float32) for classes in ("A", "AB"))
        cfg = CFG(4, reference=WeakModel(both))
        tell("exact score, unguided", draw(perfect, CFG(1), x))
        tell("exact score, CFG 4", draw(perfect, cfg, x))
        tell("CFG 4, exact guide", draw(main, cfg, x))
        for name, curve in curves.items():
            for scale in SCALES:
                points = draw(main, guiders[name].replace(scale=scale), x)
                curve[scale] = tell(f"{name} {scale:g}", points)
    seconds = time.perf_counter() - begin
    print(f"\n{args.samples} samples, seed {args.sample_seed}; {folder.name}; {seconds:.0f} s\n")

    if find_spec("matplotlib") is None:
        print("no figure without matplotlib: pip install '.[examples]'", file=sys.stderr)
        return
    from draw import figure, trade_off

    figure(args.out, truth, samples, networks, guiders)
    print(args.out)
    if args.all:
        beside = args.out.with_stem(args.out.stem + "-scales")
        trade_off(beside, reached, found["unguided"], curves)
        print(beside)


if __name__ == "__main__":
    run()
