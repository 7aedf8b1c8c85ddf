"""Train a model that compares pictures with captions: emoji-CLIP, or the second judge.

Both learn by contrast (Radford et al. 2021, arXiv:2103.00020) on the training pairs alone.
Captions say more or less, so a caption may be right for several pictures of a batch: every
picture that has all the attributes it names counts as one of its answers. ``emoji-clip`` is what
guidance, rewards and selection may use; ``emoji-judge`` is a convolutional network with another
text encoder and seed, kept away from all of them, for the figures that are published.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from augment import augment
from data import Emoji
from loop import Loop, arguments, batches
from torch import Tensor, nn
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ConvNextConfig,
    PreTrainedModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

FEATURES = 96
# What a caption names, and how often.
CAPTIONS = {
    ("name", "style"): 0.4,
    ("name",): 0.3,
    ("category", "style"): 0.1,
    ("category",): 0.1,
    ("style",): 0.1,
}


def build_clip(tokenizer: CLIPTokenizer) -> PreTrainedModel:
    """A vision transformer on patches of 4 x 4 pixels and a text transformer."""
    special = {f"{t}_token_id": getattr(tokenizer, f"{t}_token_id") for t in ("bos", "eos", "pad")}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 384,
        "num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": FEATURES,
        "max_position_embeddings": tokenizer.model_max_length, **special,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 4, "projection_dim": FEATURES,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=FEATURES))


def build_judge(tokenizer: CLIPTokenizer) -> PreTrainedModel:
    """A ConvNeXt and a BERT."""
    widths = [48, 96, 160]
    vision = ConvNextConfig(
        patch_size=2, num_stages=3, hidden_sizes=widths, depths=[1, 2, 2], image_size=32,
        hidden_size=widths[-1],  # where VisionTextDualEncoder looks
    )  # fmt: skip
    text = BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=FEATURES
    )
    return VisionTextDualEncoderModel(config)


MODELS = {"emoji-clip": (build_clip, 0), "emoji-judge": (build_judge, 1)}  # and the seed of each


class Objective(nn.Module):
    """Cross entropy over the right answers, pictures to captions and captions to pictures."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor, ids: Tensor, mask: Tensor, right: Tensor) -> Tensor:
        """pictures (B, 3, 32, 32); ids, mask (B, 16); right (B, B) bool, picture by caption."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        logits = self.model(
            pixel_values=pictures, input_ids=ids, attention_mask=mask
        ).logits_per_image.float()
        both = ((logits, right.float()), (logits.T, right.T.float()))
        terms = [-(a.log_softmax(1) * b).sum(1) / b.sum(1).clamp(min=1) for a, b in both]
        return sum(terms) / 2


class Pairs:
    """Captions of every picture in every kind, and who is right for what."""

    def __init__(self, emoji: Emoji, tokenizer: CLIPTokenizer, device: torch.device) -> None:
        columns = {"name": emoji.names, "category": emoji.categories, "style": emoji.styles}
        self.numbers = {}
        for field, values in columns.items():
            known = {value: number for number, value in enumerate(sorted(set(values)))}
            self.numbers[field] = torch.tensor([known[value] for value in values], device=device)
        shown = {**columns, "style": [f"{style} style" for style in emoji.styles]}
        texts = [
            ", ".join(shown[field][i] for field in fields if shown[field][i])
            for i in range(len(emoji))
            for fields in CAPTIONS
        ]
        tokens = tokenizer(
            texts, padding="max_length", truncation=True,
            max_length=tokenizer.model_max_length, return_tensors="pt",
        )  # fmt: skip
        shape = (len(emoji), len(CAPTIONS), -1)
        self.ids = tokens.input_ids.view(shape).to(device)
        self.mask = tokens.attention_mask.view(shape).to(device)

    def right(self, rows: Tensor, kinds: Tensor) -> Tensor:
        """(B, B) bool: has picture i all that caption j, of kind ``kinds[j]``, names?"""
        same = {field: n[rows, None] == n[None, rows] for field, n in self.numbers.items()}
        answers = [torch.stack([same[field] for field in fields]).all(dim=0) for fields in CAPTIONS]
        return torch.stack(answers)[kinds, :, torch.arange(len(rows), device=rows.device)].T


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], steps=3000, batch_size=256, lr=1e-3)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("models/emoji/tokenizer"), help="folder"
    )
    args = parser.parse_args()
    emoji = Emoji.load(args.data)
    held_out = torch.from_numpy(emoji.held_out())
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    build, seed = MODELS[args.model]
    torch.manual_seed(args.seed + seed)
    model = build(tokenizer)
    loop = Loop(args, Objective(model), ema_decay=0.998)
    pictures, pairs = emoji.pixels().to(loop.device), Pairs(emoji, tokenizer, loop.device)
    stream = batches((~held_out).nonzero().flatten(), args.batch_size)
    shares = torch.tensor(list(CAPTIONS.values()))

    def batch(rows: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pairs.ids[rows, kinds], pairs.mask[rows, kinds], pairs.right(rows, kinds)

    def draw() -> tuple[Tensor, ...]:
        rows = next(stream)
        kinds = torch.multinomial(shares, len(rows), replacement=True)
        return augment(pictures[rows]), *batch(rows, kinds)

    def validate() -> float:
        """The loss of the held-out pictures among themselves, by name and style."""
        rows = held_out.nonzero().flatten()
        with loop.accelerator.autocast():
            values = loop.raw(pictures[rows], *batch(rows, torch.zeros_like(rows)))
        return values.mean().item()

    def save() -> None:
        model.save_pretrained(args.out / "model")
        tokenizer.save_pretrained(args.out / "model")

    loop.run(draw, validate, save)


if __name__ == "__main__":
    main()
