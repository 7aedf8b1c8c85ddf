"""Does a drawing look most like a real picture of the name that was asked for?

Every prompt is drawn in the Noto style, and the nearest of all real pictures is looked for: the
smallest squared distance of pixels, after both are averaged to 32 x 32. It is right if its name is
the one asked for, in whatever style. ``names.txt`` has the 200 names: those of the Noto pictures
that are trained with, the first 200 by the SHA-256 of the name (``names.py --list``).

No network judges here, so the figure cannot be wrong as a judge may be; but a right drawing at
another place or size is often nearest to something else.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import Emoji
from guiders import CFG, Guider, guided, models
from guiders.evals import bootstrap
from guiders.evals.storage.pictures import to_tensor
from torch import Tensor
from tqdm import tqdm

LIST = Path(__file__).with_name("names.txt")
STYLE = "noto"
COUNT = 200


def chosen(emoji: Emoji) -> list[str]:
    """The rule by which ``names.txt`` was written."""
    rows = [i for i in np.flatnonzero(~emoji.held_out()) if emoji.styles[i] == STYLE]
    names = {emoji.names[i] for i in rows}
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:COUNT]


def pixels(pictures: Sequence[Any]) -> Tensor:
    """(N, 3072) of pictures of one size, averaged to 32 x 32."""
    parts = [pictures[start : start + 512] for start in range(0, len(pictures), 512)]
    return torch.cat([models.judged(to_tensor(part)).flatten(1) for part in parts])


def ranks(pictures: Sequence[Any], names: Sequence[str], emoji: Emoji) -> np.ndarray:
    """(N,) how many other names have a picture nearer than the nearest one of the right name."""
    distances = torch.cdist(pixels(pictures), pixels(emoji.images))
    known = {name: number for number, name in enumerate(sorted(set(emoji.names)))}
    owner = torch.tensor([known[name] for name in emoji.names])
    nearest = torch.full((len(names), len(known)), torch.inf)
    nearest.scatter_reduce_(1, owner.expand(len(names), -1), distances, "amin")
    right = nearest.gather(1, torch.tensor([[known[name]] for name in names]))
    return (nearest < right).sum(dim=1).numpy()


def draw(
    pipe: Any, guider: Guider, prompts: Sequence[str], steps: int, batch: int = 50
) -> list[Any]:
    """A picture of each prompt, seeds 0, 1, ..."""
    pictures: list[Any] = []
    for start in tqdm(range(0, len(prompts), batch), desc=str(guider), leave=False):
        part = list(prompts[start : start + batch])
        with guided(pipe, guider, quiet=True):
            pictures += pipe(
                part, num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
            ).images  # fmt: skip
    return pictures


@torch.no_grad()
def round_trip(pipe: Any, images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 through the autoencoder and back."""
    parts = []
    for start in range(0, len(images), 100):
        x = to_tensor(images[start : start + 100]).to(pipe.vae.dtype)
        y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mean).sample.float()
        parts.append(((y.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def measure(pipe: Any, emoji: Emoji, guider: Guider, steps: int) -> dict[str, Any]:
    """Shares of prompts whose name is the nearest, and among the nearest five, with intervals."""
    held = [i for i in np.flatnonzero(emoji.held_out()) if emoji.styles[i] == STYLE]
    trained = LIST.read_text(encoding="utf-8").splitlines()
    place = {name: i for i, name in enumerate(emoji.names) if emoji.styles[i] == STYLE}
    result: dict[str, Any] = {"guider": str(guider), "steps": steps}
    for label, names in (("trained", trained), ("held out", [emoji.names[i] for i in held])):
        pictures = draw(pipe, guider, [f"{name}, {STYLE} style" for name in names], steps)
        real = round_trip(pipe, emoji.images[[place[name] for name in names]])
        for kind, found in (("drawn", pictures), ("autoencoded", list(real))):
            rank = ranks(found, names, emoji)
            result[f"{label}, {kind}"] = {
                "names": len(names), **{f"top {k}": bootstrap(rank < k) for k in (1, 5)}
            }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("build/emoji.npz"))
    parser.add_argument("--model", type=Path, default=models.path("emoji"))
    parser.add_argument("--scale", type=float, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--list", action="store_true", help="write names.txt and stop")
    args = parser.parse_args()
    emoji = Emoji.load(args.data)
    if args.list:
        LIST.write_text("\n".join(chosen(emoji)) + "\n", encoding="utf-8")
        return
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for key, value in measure(pipe, emoji, CFG(args.scale), args.steps).items():
        print(key, value)


if __name__ == "__main__":
    main()
