"""Train the weak sibling of a text-to-image model, for autoguidance.

The same data, loss and captions, with the autoencoder and the text encoder of the strong model as
they are, but a smaller UNet and a fraction of the training: flaws of the same kind, only more of
them (Karras et al. 2024, arXiv:2406.02507, section 4).
"""

from __future__ import annotations

from pathlib import Path

import torch
from data import Emoji
from diffusers import StableDiffusionPipeline
from loop import Loop, arguments
from text_to_image import Objective, Pairs, build_unet


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], minutes=5, batch_size=[32], lr=2e-3)
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="the strong one")
    parser.add_argument("--channels", type=int, nargs=2, default=(48, 64))
    args = parser.parse_args()
    emoji = Emoji.load(args.data)
    torch.manual_seed(args.seed)
    strong = StableDiffusionPipeline.from_pretrained(args.model, dtype=torch.float32)
    unet = build_unet(tuple(args.channels), dropout=0.0)
    loop = Loop(args, Objective(unet, strong.text_encoder.requires_grad_(False)), muon=True)
    pairs = Pairs(emoji, strong.vae.to(loop.device), strong.tokenizer, loop)
    loop.run(pairs.draw, pairs.validate, lambda: unet.save_pretrained(args.out / "model"))


if __name__ == "__main__":
    main()
