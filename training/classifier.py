"""Train the classifier over the nine categories, and calibrate it on the held-out pairs.

The temperature (Guo et al. 2017, arXiv:1706.04599) is fitted to the held-out pictures and folded
into the last layer, so that the softmax of the model's logits is what it claims to be.
"""

from __future__ import annotations

import torch
from augment import augment
from data import CATEGORIES, Emoji
from guiders.models import judged
from loop import Loop, Shuffled, arguments
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import RegNetConfig, RegNetForImageClassification

LABELS = sorted(set(filter(None, CATEGORIES.values())))


def build() -> RegNetForImageClassification:
    config = RegNetConfig(
        embedding_size=32, hidden_sizes=[48, 96, 160], depths=[1, 1, 1], groups_width=16,
        layer_type="y", downsample_in_first_stage=False,
        id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)},
    )  # fmt: skip
    return RegNetForImageClassification(config)


class Objective(nn.Module):
    """Cross entropy of (B, 3, 32, 32) pictures in [-1, 1] with (B,) labels; per picture."""

    def __init__(self, model: RegNetForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.model(pictures).logits.float(), labels, reduction="none")


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the lowest cross entropy; logits (N, K), labels (N,)."""
    log_t = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(logits / log_t.exp(), labels)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return log_t.exp().item()


def main() -> None:
    args = arguments(__doc__.splitlines()[0], minutes=5, batch_size=[128], lr=2e-3).parse_args()
    emoji = Emoji.load(args.data)
    known = torch.tensor([category in LABELS for category in emoji.categories])
    held_out = torch.from_numpy(emoji.held_out()) & known
    torch.manual_seed(args.seed)
    model = build()
    loop = Loop(args, Objective(model), ema_decay=0.998)
    pictures = judged(emoji.pixels()).to(loop.device)
    labels = [LABELS.index(c) if c in LABELS else -1 for c in emoji.categories]
    targets = torch.tensor(labels, device=loop.device)
    train = Shuffled((known & ~held_out).nonzero().flatten())

    def draw() -> tuple[Tensor, Tensor]:
        rows = train.take(loop.batch_size)
        return augment(pictures[rows]), targets[rows]

    def validate() -> dict[str, float]:
        with loop.accelerator.autocast():
            return {"held out": loop.raw(pictures[held_out], targets[held_out]).mean().item()}

    @torch.no_grad()
    def save() -> None:
        logits, right = model(pictures[held_out]).logits, targets[held_out]
        temperature = fit_temperature(logits.cpu(), right.cpu())
        last = model.classifier[-1]
        kept = last.weight.clone(), last.bias.clone()
        last.weight /= temperature
        last.bias /= temperature
        model.config.calibration_temperature = (
            temperature  # for the record: it is in the weights already
        )
        model.save_pretrained(args.out / "model")
        last.weight.copy_(kept[0])
        last.bias.copy_(kept[1])

    loop.run(draw, validate, save)


if __name__ == "__main__":
    main()
