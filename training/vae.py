"""Train the autoencoder: 3 x 64 x 64 pictures to 16 x 8 x 8 latents of zero mean and unit variance.

The loss is L1 on pixels, on their horizontal and vertical differences at three resolutions, and on
pictures averaged over 2, 4 and 8 pixels, without which edges are learnt long before colours; plus
1e-6 of the Kullback-Leibler term. Latents are decoded with noise of up to a fifth of their spread,
so that the decoder forgives what a small denoiser gets wrong. Afterwards each latent channel is
standardised over the training pictures and the affine map is folded into ``quant_conv`` and
``post_quant_conv``: without this the white background, which most pictures share, dominates every
norm and cosine that a guidance method computes.
"""

from __future__ import annotations

import copy

import torch
from data import Emoji
from diffusers import AutoencoderKL
from loop import Loop, Shuffled, arguments
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss

SIZE, CHANNELS = 64, 16
KL_WEIGHT = 1e-6
COLOUR_WEIGHT = 2.0
NOISE = 0.2


def build(widths: tuple[int, ...]) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
        scaling_factor=1.0,
    )


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """The loss of pictures (B, 3, H, W), of their differences and of their averages."""
    loss = l1_loss(output, target)
    for level in range(4):
        if level:
            output, target = avg_pool2d(output, 2), avg_pool2d(target, 2)
            loss = loss + COLOUR_WEIGHT * l1_loss(output, target)
        if level < 3:
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
        z = posterior.sample()
        spread = z.detach().float().std(dim=(0, 2, 3), keepdim=True)
        strength = NOISE * torch.rand(len(z), 1, 1, 1, device=z.device)
        output = self.vae.decode(z + strength * spread * torch.randn_like(z)).sample.float()
        return reconstruction_loss(output, target) + KL_WEIGHT * posterior.kl().mean()


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], minutes=35, batch_size=[16], lr=1.5e-3)
    parser.add_argument("--widths", type=int, nargs=4, default=(16, 32, 64, 128))
    args = parser.parse_args()
    emoji = Emoji.load(args.data)
    held_out = torch.from_numpy(emoji.held_out())
    torch.manual_seed(args.seed)
    vae = build(tuple(args.widths))
    loop = Loop(args, Objective(vae), warmup=40, ema_decay=0.995)
    pictures = emoji.pixels().to(loop.device)
    train = Shuffled((~held_out).nonzero().flatten())
    sample = pictures[~held_out][:: max(1, len(emoji) // 2048)]

    def error(pictures: Tensor) -> float:
        """The mean L1 of 512 pictures in [-1, 1]."""
        with loop.accelerator.autocast():
            errors = [(vae(x).sample - x).abs().mean() for x in pictures[:512].split(128)]
        return torch.stack(errors).mean().item()

    def validate() -> dict[str, float]:
        return {"held out": error(pictures[held_out]), "trained": error(pictures[~held_out][::17])}

    def save() -> None:
        standardise(vae, sample).save_pretrained(args.out / "vae")

    loop.run(lambda: (pictures[train.take(loop.batch_size)],), validate, save)


if __name__ == "__main__":
    main()
