"""At which noise level is it decided which picture it is?

For noisy latents x_t of the pictures: the posterior probability of the right picture among all,
with an equal prior and the exact Gaussian likelihood. Above the level where it becomes certain only
a caption tells what to draw; a schedule that spends few steps there teaches a model, and lets it
draw, without listening.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from data import Emoji
from diffusers import AutoencoderKL
from text_to_image import build_scheduler
from torch import Tensor
from torch.nn.functional import avg_pool2d

STEPS = (999, 950, 900, 850, 800, 750, 700, 650, 600, 500)


def certainty(latents: Tensor, signal: Tensor, probes: int = 200) -> float:
    """The mean posterior probability of the right one of ``latents`` (N, D), where x is
    ``sqrt(signal) z + sqrt(1 - signal) noise``."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(latents), generator=generator)[:probes]
    noise = torch.randn(probes, latents.shape[1], generator=generator)
    x = signal.sqrt() * latents[rows] + (1 - signal).sqrt() * noise
    log = signal.sqrt() * (x @ latents.T) - signal * latents.square().sum(dim=1) / 2
    right = (log / (1 - signal)).softmax(dim=1).gather(1, rows[:, None])
    return right.mean().item()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("build/emoji.npz"))
    parser.add_argument("--vae", type=Path, required=True, help="folder written by vae.py")
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0, 1.72])
    args = parser.parse_args()
    emoji = Emoji.load(args.data)
    vae = AutoencoderKL.from_pretrained(args.vae)
    pixels = emoji.pixels()
    pixels = avg_pool2d(pixels, pixels.shape[-1] // vae.config.sample_size)
    parts = [vae.encode(x).latent_dist.mean for x in pixels.split(256)]
    latents = torch.cat(parts).flatten(1)
    print("step", *STEPS, sep="\t")
    for noise in args.noise:
        signal = build_scheduler(noise).alphas_cumprod
        print(noise, *(f"{certainty(latents, signal[t]):.2f}" for t in STEPS), sep="\t")


if __name__ == "__main__":
    main()
