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
from typing import NamedTuple

import torch
from augment import augment
from data import Emoji
from guiders.models import judged
from loop import Loop, Shuffled, arguments
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
# The usual initialisation (0.02) is for wide networks and long training: in narrow ones all texts
# look alike at first, and hundreds of steps go by before anything is learnt.
SPREAD = 0.15
# What a caption names, and how often.
CAPTIONS = {
    ("name", "style"): 0.45,
    ("name",): 0.4,
    ("category", "style"): 0.05,
    ("category",): 0.05,
    ("style",): 0.05,
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
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=FEATURES)
    model = CLIPModel(config)
    nn.init.normal_(model.text_model.embeddings.token_embedding.weight, std=SPREAD)
    return model


def build_judge(tokenizer: CLIPTokenizer) -> PreTrainedModel:
    """A ConvNeXt and a BERT."""
    widths = [48, 96, 160]
    vision = ConvNextConfig(
        patch_size=2, num_stages=3, hidden_sizes=widths, depths=[1, 2, 2], image_size=32,
        hidden_size=widths[-1],  # where VisionTextDualEncoder looks
        layer_scale_init_value=0.5, initializer_range=SPREAD,
    )  # fmt: skip
    text = BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id, initializer_range=SPREAD, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=FEATURES
    )
    return VisionTextDualEncoderModel(config)


MODELS = {"emoji-clip": (build_clip, 0), "emoji-judge": (build_judge, 1)}  # and the seed of each


class Batch(NamedTuple):
    """Pictures and a caption of each.

    Attributes:
        pictures: (B, 3, 32, 32) in [-1, 1].
        ids, mask: (B, 16) tokens.
        attributes: (B, 3) the numbers of name, category and style.
        named: (B, 3) bool, which of them the caption names.
    """

    pictures: Tensor
    ids: Tensor
    mask: Tensor
    attributes: Tensor
    named: Tensor


def right(attributes: Tensor, others: Tensor, named: Tensor) -> Tensor:
    """(N, M) bool: has picture i, of ``attributes`` (N, 3), all that caption j names?"""
    same = attributes[:, None] == others[None]
    return (same | ~named[None]).all(dim=2)


class Objective(nn.Module):
    """Cross entropy over the right answers, pictures to captions and captions to pictures."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *parts: Tensor) -> Tensor:
        batch = Batch(*parts)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        logits = self.model(
            pixel_values=batch.pictures, input_ids=batch.ids, attention_mask=batch.mask
        ).logits_per_image.float()
        found = right(batch.attributes, batch.attributes, batch.named)
        both = ((logits, found), (logits.T, found.T))
        return sum(-(a.log_softmax(dim=1) * b).sum(dim=1) / b.sum(dim=1) for a, b in both) / 2


class Pairs:
    """Captions of every picture in every kind."""

    def __init__(self, emoji: Emoji, tokenizer: CLIPTokenizer, device: torch.device) -> None:
        columns = {"name": emoji.names, "category": emoji.categories, "style": emoji.styles}
        known = {c: {v: n for n, v in enumerate(sorted(set(vs)))} for c, vs in columns.items()}
        numbers = [[known[column][v] for v in values] for column, values in columns.items()]
        self.attributes = torch.tensor(numbers, device=device).T
        self.named = torch.tensor([[c in kind for c in columns] for kind in CAPTIONS]).to(device)
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

    def batch(self, pictures: Tensor, rows: Tensor, kinds: Tensor) -> Batch:
        """``pictures`` are those of ``rows``; ``kinds`` are numbers of ``CAPTIONS``."""
        ids, mask = self.ids[rows, kinds], self.mask[rows, kinds]
        return Batch(pictures, ids, mask, self.attributes[rows], self.named[kinds])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], minutes=15, batch_size=[128], lr=2e-3)
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
    pictures, pairs = judged(emoji.pixels()).to(loop.device), Pairs(emoji, tokenizer, loop.device)
    train = Shuffled((~held_out).nonzero().flatten())
    shares = torch.tensor(list(CAPTIONS.values()))

    def draw() -> Batch:
        rows = train.take(loop.batch_size)
        kinds = torch.multinomial(shares, len(rows), replacement=True)
        return pairs.batch(augment(pictures[rows]), rows, kinds)

    def validate() -> dict[str, float]:
        """The loss of the held-out pictures among themselves, by name and style."""
        rows = held_out.nonzero().flatten()
        with loop.accelerator.autocast():
            batch = pairs.batch(pictures[rows], rows, torch.zeros_like(rows))
            return {"held out": loop.raw(*batch).mean().item()}

    def save() -> None:
        model.save_pretrained(args.out / "model")
        tokenizer.save_pretrained(args.out / "model")

    loop.run(draw, validate, save)


if __name__ == "__main__":
    main()
