"""ImageReward: a BLIP that reads the prompt while it looks at the picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .aesthetic import linear_layers
from .resize import Preprocess
from .weights import file, pretrained

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw score, in the released code
LENGTH = 35  # tokens of a prompt


class ImageReward(nn.Module):
    """ImageReward 1.0 (Xu et al. 2023, arXiv:2304.05977); about 0 on average, 2 is excellent.

    The published weights have BLIP's own names; they are read into Transformers' BLIP.

    Args:
        model: a folder or an id on the Hub with ``ImageReward.pt``, or that file.
        tokenizer: a folder or an id on the Hub of BERT's.
        vision_heads, text_heads: attention heads.
    """

    def __init__(
        self,
        model: str = "THUDM/ImageReward",
        tokenizer: str = "bert-base-uncased",
        vision_heads: int = 16,
        text_heads: int = 12,
    ) -> None:
        super().__init__()
        from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig, BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        self.tokenizer = pretrained(
            BertTokenizer.from_pretrained, tokenizer, "imagereward(tokenizer=...)"
        )
        path = file(model, "ImageReward.pt", "imagereward(model=...)")
        state = torch.load(path, map_location="cpu", weights_only=True)
        see, read = from_blip(state)
        patches = see["embeddings.patch_embedding.weight"]
        side = round((see["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
        self.vision = BlipVisionModel(BlipVisionConfig(
            hidden_size=len(patches), patch_size=patches.shape[2],
            image_size=side * patches.shape[2], num_attention_heads=int(vision_heads),
            num_hidden_layers=_count(see, "encoder.layers"), layer_norm_eps=1e-6,
            intermediate_size=len(see["encoder.layers.0.mlp.fc1.weight"]),
        ))  # fmt: skip
        words, width = read["embeddings.word_embeddings.weight"].shape
        self.text = BlipTextModel(BlipTextConfig(
            vocab_size=words, hidden_size=width, encoder_hidden_size=len(patches),
            num_hidden_layers=_count(read, "encoder.layer"), num_attention_heads=int(text_heads),
            intermediate_size=len(read["encoder.layer.0.intermediate.dense.weight"]),
            max_position_embeddings=len(read["embeddings.position_embeddings.weight"]),
        ), add_pooling_layer=False)  # fmt: skip
        self.vision.load_state_dict(see)
        self.text.load_state_dict(read)
        self.head = linear_layers(state, "mlp.layers.")
        self.preprocess = Preprocess(side * patches.shape[2])

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen = self.vision(pixel_values=self.preprocess(images)).last_hidden_state
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=LENGTH,
            return_tensors="pt",
        ).to(images.device)  # fmt: skip
        read = self.text(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=seen.device),
        ).last_hidden_state[:, 0]  # fmt: skip
        return (self.head(read).squeeze(1) - MEAN) / STD


VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def from_blip(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """ImageReward's names as those of ``BlipVisionModel`` and ``BlipTextModel``."""
    see, read = {}, {}
    for name, value in state.items():
        value = value.float() if value.is_floating_point() else value
        if text := re.fullmatch(r"blip\.text_encoder\.(.+)", name):
            if not text[1].endswith("position_ids") and not text[1].startswith("pooler."):
                read[text[1]] = value
        elif picture := re.fullmatch(r"blip\.visual_encoder\.(?:blocks\.(\d+)\.)?(.+)", name):
            stem, _, end = picture[2].rpartition(".")
            if picture[2] in VISION:
                stem, end = picture[2], ""
            new = VISION[stem] + (f".{end}" if end else "")
            see[f"encoder.layers.{picture[1]}.{new}" if picture[1] else new] = value
    return see, read


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.escape(prefix) + r"\.(\d+)\."
    return 1 + max(int(m[1]) for name in state if (m := re.match(pattern, name)))
