"""Train the text-to-image model on the latents of a trained autoencoder; write a whole pipeline.

v-prediction on Stable Diffusion's beta schedule, with betas that are ``NOISE`` times as large: the
more numbers a latent has, the more noise it takes to hide which picture it is, and only where that
is hidden has the caption anything to say (``decided.py`` measures where). The loss of v is left as
it is at high noise, and at low noise the weight of x0 is cut at 5 as in min-SNR (Hang et al. 2023,
arXiv:2303.09556), and levels are drawn more often the noisier they are. UNet and text encoder train
together: the UNet's matrices by Muon, the rest by AdamW, the text encoder at half the rate.
Captions say more or less (``data.CAPTION_SHARES``). The last weights are kept: after the loss on
held-out (name, style) pairs has begun to rise, these are still drawn right more and more often.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from data import CAPTION_SHARES, Emoji, captions
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from loop import Loop, Shuffled, arguments
from PIL import Image
from tokenizers import pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CAPTION_LENGTH = 16
VOCABULARY = 4500  # nearly all words whole
NOISE = 1.72  # half certain at step 650 of 1,000, as 4 x 8 x 8 latents are at 1, not at 840
TOWARDS_NOISE = 1.5  # half of the levels are drawn above 650: there the caption is learnt
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's format: bytes, bytes that end a word, merges, start, end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = alphabet + [f"{byte}</w>" for byte in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, end_of_word_suffix="</w>",
        show_progress=False,
    )  # fmt: skip
    learner = CLIPTokenizer().backend_tokenizer
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"][: VOCABULARY - len(symbols) - 2]
    pieces = symbols + ["".join(pair) for pair in merges] + [START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocabulary, [tuple(pair) for pair in merges], model_max_length=CAPTION_LENGTH
    )


def build_text_encoder(tokenizer: CLIPTokenizer, layers: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=768, projection_dim=192,
        num_hidden_layers=layers, num_attention_heads=6, max_position_embeddings=CAPTION_LENGTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_unet(channels: tuple[int, int], dropout: float) -> UNet2DConditionModel:
    """Cross-attention at 8 x 8 and in the middle: at 4 x 4 it costs a third and adds nothing.

    The caption also enters whole, pooled into the embedding of time that scales every block.
    """
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=192,
        attention_head_dim=[width // 32 for width in channels],
        norm_num_groups=16,
        dropout=dropout,
        addition_embed_type="text",
        addition_embed_type_num_heads=6,
        resnet_time_scale_shift="scale_shift",
    )


def build_scheduler(noise: float = NOISE) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085 * noise,
        beta_end=0.012 * noise,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


class Objective(nn.Module):
    """The loss of v, with the weight of x0, ``SNR + 1``, cut at 5; per picture."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.register_buffer("alphas_cumprod", build_scheduler().alphas_cumprod, persistent=False)

    def forward(self, x0: Tensor, ids: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0, noise (B, 16, 8, 8); ids (B, 16); t (B,) integers. Returns (B,)."""
        signal = self.alphas_cumprod[t, None, None, None]
        alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
        hidden = self.text_encoder(ids)[0]
        v = self.unet(alpha * x0 + sigma * noise, t, hidden).sample.float()
        snr = (signal / (1 - signal)).flatten()
        error = (v - (alpha * noise - sigma * x0)).square().mean(dim=(1, 2, 3))
        return error * (snr + 1).clamp(max=5) / (snr + 1)


class Pairs:
    """Latents and captions of every picture: batches to train on and losses to select by."""

    def __init__(
        self, emoji: Emoji, vae: AutoencoderKL, tokenizer: CLIPTokenizer, loop: Loop
    ) -> None:
        self.loop, device = loop, loop.device
        with torch.no_grad():
            parts = [vae.encode(x.to(device)).latent_dist.mean for x in emoji.pixels().split(256)]
        self.latents = torch.cat(parts)
        rows = zip(emoji.names, emoji.styles, emoji.categories, strict=True)
        texts = [text for row in rows for text in captions(*row)]
        ids = tokenizer(
            texts, padding="max_length", truncation=True, max_length=CAPTION_LENGTH,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        self.ids = ids.view(len(emoji), len(CAPTION_SHARES), CAPTION_LENGTH).to(device)
        self.held_out = torch.from_numpy(emoji.held_out()).to(device)
        self.shares = torch.tensor(list(CAPTION_SHARES.values()))
        self.train = Shuffled((~self.held_out).nonzero().flatten())

    def draw(self) -> tuple[Tensor, ...]:
        """A batch for ``Objective``."""
        rows = self.train.take(self.loop.batch_size)
        kind = torch.multinomial(self.shares, len(rows), replacement=True)
        x0 = self.latents[rows]
        t = 1000 - 1000 * torch.rand(len(rows), device=x0.device) ** TOWARDS_NOISE
        t = t.long().clamp(max=999)
        return x0, self.ids[rows, kind.to(rows.device)], t, torch.randn_like(x0)

    def validate(self) -> dict[str, float]:
        """The losses of full captions, at fixed noise levels and noise: of the held-out pairs, of
        as many trained ones, and of the held-out ones at the highest quarter of the levels, where
        the caption decides."""
        held_out, levels = self._losses(self.held_out.nonzero().flatten())
        every = (~self.held_out).nonzero().flatten()
        trained, _ = self._losses(every[:: len(every) // len(held_out)])
        return {
            "held out": held_out.mean().item(),
            "trained": trained.mean().item(),
            "held out, high noise": held_out[levels >= 750].mean().item(),
        }

    def _losses(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        x0, words = self.latents[rows], self.ids[rows, 0]
        t = torch.arange(len(x0)).mul(617).remainder(1000).to(x0.device)
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)).to(x0.device)
        with self.loop.accelerator.autocast():
            parts = zip(*(a.split(256) for a in (x0, words, t, noise)), strict=True)
            return torch.cat([self.loop.raw(*part) for part in parts]), t


SAMPLES = [
    "red heart, noto style", "soccer ball, twemoji style", "grinning face, fluent style",
    "rocket, noto style", "pizza, emojione style", "dog face, noto blob style",
    "key, fluent flat style", "airplane", "food", "",
]  # fmt: skip


def draw_samples(pipe: StableDiffusionPipeline, file: Path) -> None:
    """``SAMPLES`` at guidance scale 3 and 20 steps with two seeds, in one picture."""
    pipe.set_progress_bar_config(disable=True)
    pictures = []
    for seed in (0, 1):
        generators = [torch.Generator().manual_seed(seed) for _ in SAMPLES]
        pictures += pipe(
            SAMPLES, num_inference_steps=20, guidance_scale=3, generator=generators
        ).images
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(SAMPLES), 2 * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % len(SAMPLES) * width, index // len(SAMPLES) * height))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], minutes=150, batch_size=[16, 32, 64], lr=2e-3)
    parser.add_argument("--vae", type=Path, help="folder written by vae.py")
    parser.add_argument("--channels", type=int, nargs=2, default=(96, 192))
    parser.add_argument("--text-layers", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--init", type=Path, help="a pipeline folder to start from (EMA weights)")
    args = parser.parse_args()
    if (args.vae is None) == (args.init is None):
        parser.error("expected --vae to begin or --init to go on, got both or none of them")
    emoji = Emoji.load(args.data)
    torch.manual_seed(args.seed)
    if args.init:
        start = StableDiffusionPipeline.from_pretrained(args.init, dtype=torch.float32)
        tokenizer, text_encoder, unet = start.tokenizer, start.text_encoder, start.unet
        vae = start.vae
    else:
        kept = args.out / "tokenizer"  # ties between merges fall differently in every process
        if not kept.exists():
            build_tokenizer([emoji.caption(i) for i in range(len(emoji))]).save_pretrained(kept)
        tokenizer = CLIPTokenizer.from_pretrained(kept)
        text_encoder = build_text_encoder(tokenizer, args.text_layers)
        unet = build_unet(tuple(args.channels), args.dropout)
        vae = AutoencoderKL.from_pretrained(args.vae)
    objective = Objective(unet, text_encoder)
    loop = Loop(args, objective, slow=text_encoder.parameters(), muon=True, last=True)
    vae = vae.to(loop.device).eval().requires_grad_(False)
    pairs = Pairs(emoji, vae, tokenizer, loop)

    def save() -> None:
        pipe = StableDiffusionPipeline(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
            scheduler=build_scheduler(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        folder = args.out / "pipeline"
        pipe.save_pretrained(folder)
        rows = zip(emoji.names, emoji.styles, emoji.categories, strict=True)
        texts = [text for row in rows for text in captions(*row)]
        words = {word for text in texts for word in text.replace(",", "").split()}
        (folder / "words.txt").write_text("\n".join(sorted(words)) + "\n")
        draw_samples(pipe, args.out / "samples.png")

    loop.run(pairs.draw, pairs.validate, save)


if __name__ == "__main__":
    main()
