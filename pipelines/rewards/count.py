"""How many objects a detector sees."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .resize import Preprocess
from .weights import pretrained


class Count(nn.Module):
    """The expected number of objects, or minus its distance to a number of them.

    The sum over a detector's queries of the probability of an object: DETR and YOLOS say it with a
    softmax that has one class for nothing, others with a sigmoid for each class, of which the
    largest counts.

    Args:
        model: a folder or an id on the Hub of an object detection model of Transformers.
        label: count this class alone, such as ``cat``.
        target: reward nearness to this number instead of many.

    Raises:
        ValueError: the model cannot be found, or has no such class.
    """

    def __init__(
        self, model: str = "hustvl/yolos-tiny", label: str = "", target: float | None = None
    ) -> None:
        super().__init__()
        from transformers import AutoModelForObjectDetection
        from transformers.image_processing_utils import BaseImageProcessor

        self.network = pretrained(AutoModelForObjectDetection.from_pretrained, model, "count")
        config, _ = BaseImageProcessor.get_image_processor_dict(model)
        size = (
            config["size"]
            if isinstance(config["size"], dict)
            else {"shortest_edge": config["size"]}
        )
        short = int(size.get("shortest_edge") or size["height"])
        self.preprocess = Preprocess(
            short, config["image_mean"], config["image_std"], "bilinear", crop=False,
            longest=size.get("longest_edge"),
        )  # fmt: skip
        names = self.network.config.label2id
        if label and label not in names:
            known = ", ".join(sorted(names, key=names.__getitem__)[:20])
            raise ValueError(f"count: label is {label!r}; allowed is one of {known}, ...")
        self.index = names[label] if label else None
        self.target = target

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        logits = self.network(pixel_values=self.preprocess(images)).logits
        known = self.network.config.num_labels
        nothing = logits.shape[-1] == known + 1
        chances = (logits.softmax(dim=-1) if nothing else logits.sigmoid())[..., :known]
        if self.index is not None:
            each = chances[..., self.index]
        else:
            each = chances.sum(dim=-1) if nothing else chances.amax(dim=-1)
        count = each.sum(dim=1)
        return count if self.target is None else -(count - self.target).abs()
