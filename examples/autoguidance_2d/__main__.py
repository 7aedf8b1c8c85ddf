"""Autoguidance against classifier-free guidance where the truth is known: in the plane.

The two-dimensional example of Karras et al. 2024 (arXiv:2406.02507), written anew: a class is a
tree of Gaussians, three small networks learn its exact score, and guiders sample it.

    pip install '.[examples]'
    python examples/autoguidance_2d                     # the figure, with the networks that ship
    python examples/autoguidance_2d --train --seed 1    # other networks; minutes

A network of one's own needs no more for a guider than to be called as ``network(x, sigma)`` and to
return the clean points; ``sampling.py`` is all of it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from metrics import measure
from mixture import Mixture
from sampling import draw, generator, methods, start
from train import RECIPES, SHIPPED, load, save, train

BUILD = Path("build/autoguidance_2d")
HEAD = """| samples of class A | outliers | mean log p | variation | lost branches | transport |
|---|---|---|---|---|---|"""


def run() -> None:
    parser = argparse.ArgumentParser(
        prog="autoguidance_2d", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--train", action="store_true", help="train; goes on where it was stopped")
    parser.add_argument("--seed", type=int, default=0, help="of the networks, with --train")
    parser.add_argument("--weights", type=Path, help="folder of trained networks to read, or write")
    parser.add_argument("--samples", type=int, default=2**14)
    parser.add_argument("--sample-seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/autoguidance-2d.png"))
    args = parser.parse_args()
    if args.samples < 1:
        parser.error(f"argument --samples: is {args.samples}; allowed is a number of at least 1")
    begin = time.perf_counter()

    if args.train:
        folder = args.weights or BUILD / f"weights-{args.seed}"
        save({name: train(name, BUILD, args.seed) for name in RECIPES}, folder)
    else:
        folder = args.weights or SHIPPED
    networks = load(folder)
    main, guiders = networks["main"], methods(networks["both"], networks["weak"])
    exact, ideal = Mixture("A"), methods(Mixture("AB"), networks["weak"])
    truth = exact.sample(args.samples, generator=generator(args.sample_seed + 1))
    again = exact.sample(args.samples, generator=generator(args.sample_seed + 2))
    x = start(args.samples, args.sample_seed)

    print(f"{HEAD}\n| exact samples | {measure(again, exact, truth).row()} |", flush=True)
    for name in ("unguided", "CFG"):
        score = measure(draw(exact, ideal[name], x), exact, truth)
        print(f"| exact score, {name} | {score.row()} |", flush=True)
    samples = {}
    for name, guider in guiders.items():
        samples[name] = draw(main, guider, x)
        print(f"| {name} | {measure(samples[name], exact, truth).row()} |", flush=True)
    print(f"\n{args.samples} samples, start seed {args.sample_seed}, networks {folder}, ", end="")
    print(f"{time.perf_counter() - begin:.0f} s")

    from draw import figure

    figure(args.out, truth, samples, networks, guiders)
    print(args.out)


if __name__ == "__main__":
    run()
