"""Agreement of picture and prompt, by models that compare pictures with texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ... import models
from .resize import Preprocess
from .weights import pretrained


class ImageText(nn.Module):
    """The cosine of the features of picture and prompt, times ``scale``.

    Args:
        network: an image-text model of Transformers.
        tokenizer: its tokenizer.
        preprocess: pictures in [0, 1] to what the network sees.
        scale: of the cosine; ``None`` is the network's own temperature.
    """

    def __init__(
        self, network: Any, tokenizer: Any, preprocess: nn.Module, scale: float | None = 1.0
    ) -> None:
        super().__init__()
        self.network, self.tokenizer, self.preprocess = network, tokenizer, preprocess
        self.scale = scale
        self.length = min(
            tokenizer.model_max_length,
            network.config.text_config.max_position_embeddings,
        )

    def features(self, images: Tensor) -> Tensor:
        """(B, D) features of pictures."""
        return self.network.get_image_features(pixel_values=self.preprocess(images)).pooler_output

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """(B, D) features of prompts."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.length,
            return_tensors="pt",
        ).to(next(self.network.parameters()).device)  # fmt: skip
        return self.network.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        cosine = (
            normalize(self.features(images), dim=1) * normalize(self.texts(prompts), dim=1)
        ).sum(dim=1)
        return cosine * (self.network.logit_scale.exp() if self.scale is None else self.scale)


class Judged(nn.Module):
    """(B, 3, H, W) in [0, 1] to what the emoji family's judges see, (B, 3, 32, 32) in [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * models.judged(images) - 1


class EmojiClip(ImageText):
    """The cosine by the emoji-clip that ships with the library."""

    def __init__(self) -> None:
        super().__init__(models.load("emoji-clip"), models.tokenizer("emoji-clip"), Judged())


class EmojiJudge(ImageText):
    """The cosine by emoji-judge: for figures that are published, never for training."""

    def __init__(self) -> None:
        super().__init__(models.load("emoji-judge"), models.tokenizer("emoji-judge"), Judged())


class Clip(ImageText):
    """CLIP's cosine of picture and prompt (Radford et al. 2021, arXiv:2103.00020).

    Args:
        model: a folder or an id on the Hub with a ``CLIPModel``.
        tokenizer: the same for its tokenizer, where it lies elsewhere.
        name: for messages.
        scale: of the cosine; ``None`` is the network's own temperature.
    """

    def __init__(
        self,
        model: str = "openai/clip-vit-large-patch14",
        tokenizer: str = "",
        name: str = "clip",
        scale: float | None = 1.0,
    ) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        network = pretrained(CLIPModel.from_pretrained, model, name)
        words = pretrained(CLIPTokenizer.from_pretrained, tokenizer or model, name)
        size = network.config.vision_config.image_size
        super().__init__(network, words, Preprocess(size), scale)


class PickScore(Clip):
    """PickScore (Kirstain et al. 2023, arXiv:2305.01569): a CLIP trained on what people picked.

    The cosine times the network's temperature; about 20 for good pictures.
    """

    def __init__(
        self,
        model: str = "yuvalkirstain/PickScore_v1",
        tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ) -> None:
        super().__init__(model, tokenizer, "pickscore", None)
