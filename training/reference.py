"""Reference statistics of the training and the held-out pictures, for distances between sets.

For each of the two image-text models an npz per set with ``mu`` and ``sigma``, as pytorch-fid and
EDM2 write them, and ``count``; for emoji-CLIP also ``features`` (N, 96) in half precision, for
metrics of nearest neighbours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from data import Emoji
from export import MODELS, checksums
from guiders import models
from guiders.evals import Moments, image_features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("build/emoji.npz"))
    args = parser.parse_args()
    emoji = Emoji.load(args.data)
    folder = MODELS / "emoji-statistics"
    folder.mkdir(exist_ok=True)
    held_out = emoji.held_out()
    for network in ("emoji-clip", "emoji-judge"):
        model = models.load(network)
        for name, rows in (("train", ~held_out), ("held-out", held_out)):
            features = image_features(model, emoji.images[rows])
            kept = {"features": features.half().numpy()} if network == "emoji-clip" else {}
            Moments.of(features).save(folder / f"{network}-{name}.npz", **kept)
            print(f"{network}, {name}: {int(np.sum(rows))} pictures")
    checksums()


if __name__ == "__main__":
    main()
