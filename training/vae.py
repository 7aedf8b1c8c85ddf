"""Train the autoencoder: 3 x 32 x 32 pictures to 4 x 8 x 8 latents of zero mean and unit variance.

The loss is L1 on pixels and on their horizontal and vertical differences at three resolutions,
plus 1e-6 of the Kullback-Leibler term. Afterwards each latent channel is standardised over the
training pictures and the affine map is folded into ``quant_conv`` and ``post_quant_conv``: without
this the white background, which most pictures share, dominates every norm and cosine that a
guidance method computes.
"""

from __future__ import annotations

import copy

import torch
from data import Emoji
from diffusers import AutoencoderKL
from loop import Loop, arguments, batches
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss

KL_WEIGHT = 1e-6


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=32,
        scaling_factor=1.0,
    )


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 of pixels and of their differences, (B, 3, H, W) each, at full, half and quarter size."""
    loss = l1_loss(output, target)
    for level in range(3):
        if level:
            output, target = avg_pool2d(output, 2), avg_pool2d(target, 2)
        loss = loss + l1_loss(output.diff(dim=2), target.diff(dim=2))
        loss = loss + l1_loss(output.diff(dim=3), target.diff(dim=3))
    return loss


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: Tensor) -> AutoencoderKL:
    """Fold ``(z - mean) / std`` per channel into the convolutions around the latents."""
    vae = copy.deepcopy(vae).float()
    latents = torch.cat([vae.encode(x).latent_dist.mean for x in pictures.split(256)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()  # the log-variances follow
    return vae


class Objective(nn.Module):
    """The loss of a batch of pictures (B, 3, H, W) in [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, target: Tensor) -> Tensor:
        posterior = self.vae.encode(target).latent_dist
        output = self.vae.decode(posterior.sample()).sample.float()
        return reconstruction_loss(output, target) + KL_WEIGHT * posterior.kl().mean()


def main() -> None:
    args = arguments(__doc__.splitlines()[0], steps=2400, batch_size=64, lr=1e-3).parse_args()
    emoji = Emoji.load(args.data)
    pictures = emoji.pixels()
    held_out = torch.from_numpy(emoji.held_out())
    torch.manual_seed(args.seed)
    vae = build()
    loop = Loop(args, Objective(vae), ema_decay=0.995)
    pictures = pictures.to(loop.device)
    stream = batches((~held_out).nonzero().flatten(), args.batch_size)
    sample = pictures[~held_out][:: max(1, len(emoji) // 2048)]

    def validate() -> float:
        with loop.accelerator.autocast():
            errors = [(vae(x).sample - x).abs().mean() for x in pictures[held_out][:512].split(256)]
        return torch.stack(errors).mean().item()

    def save() -> None:
        standardise(vae, sample).save_pretrained(args.out / "vae")

    loop.run(lambda: (pictures[next(stream)],), validate, save)


if __name__ == "__main__":
    main()
