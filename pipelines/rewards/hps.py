"""HPSv2: a CLIP ViT-H/14 tuned to what people prefer, from OpenCLIP's weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .clip import ImageText
from .resize import Preprocess
from .weights import file, pretrained

FILES = {"2": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}


class HPSv2(ImageText):
    """Human Preference Score v2 (Wu et al. 2023, arXiv:2306.09341): a cosine, about 0.27.

    The published weights are OpenCLIP's; they are read into a ``CLIPModel`` of Transformers.

    Args:
        model: a folder or an id on the Hub with the weights, or their file.
        version: 2 or 2.1.
        tokenizer: a folder or an id on the Hub.
        heads: attention heads of both towers.

    Raises:
        ValueError: there is no such version, or the weights cannot be found.
    """

    def __init__(
        self,
        model: str = "xswu/HPSv2",
        version: float = 2,
        tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        heads: int = 16,
    ) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        name = FILES.get(f"{version:g}" if isinstance(version, (int, float)) else version)
        if name is None:
            raise ValueError(f"hpsv2: version is {version!r}; allowed is 2 or 2.1")
        words = pretrained(CLIPTokenizer.from_pretrained, tokenizer, "hpsv2(tokenizer=...)")
        path = file(model, name, "hpsv2(model=...)")
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        network = CLIPModel(config_of(state, int(heads), words.eos_token_id))
        network.load_state_dict(from_open_clip(state))
        super().__init__(network, words, Preprocess(network.config.vision_config.image_size))


def config_of(state: Mapping[str, Tensor], heads: int, eos_token_id: int) -> object:
    """The sizes of an OpenCLIP vision transformer and text transformer, from their weights."""
    from transformers import CLIPConfig

    def layers(prefix: str) -> int:
        return 1 + max(int(m[1]) for n in state if (m := re.match(prefix + r"\.(\d+)\.", n)))

    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    vocabulary, text_width = state["token_embedding.weight"].shape
    common = {"num_attention_heads": heads, "hidden_act": "gelu"}
    vision = {
        "hidden_size": width, "patch_size": patch, "image_size": side * patch,
        "num_hidden_layers": layers(r"visual\.transformer\.resblocks"),
        "intermediate_size": len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
    }  # fmt: skip
    text = {
        "hidden_size": text_width, "vocab_size": vocabulary,
        "max_position_embeddings": len(state["positional_embedding"]),
        "num_hidden_layers": layers(r"transformer\.resblocks"),
        "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
        "eos_token_id": eos_token_id,
    }  # fmt: skip
    return CLIPConfig(
        text_config=text | common, vision_config=vision | common,
        projection_dim=state["text_projection"].shape[1],
    )  # fmt: skip


NAMES = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
WHOLE = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}


def from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names and shapes as those of a ``CLIPModel``."""
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        value = value.float()
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if name in ("visual.proj", "text_projection"):
            made[f"{name.replace('.proj', '_projection')}.weight"] = value.T.contiguous()
        elif block:
            tower = "vision_model" if block[1] else "text_model"
            prefix, rest = f"{tower}.encoder.layers.{block[2]}", block[3]
            if rest.startswith("attn.in_proj_"):
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    made[
                        f"{prefix}.self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}"
                    ] = part
            else:
                stem, _, end = rest.rpartition(".")
                made[f"{prefix}.{NAMES[stem]}.{end}"] = value
        elif name in WHOLE:
            made[WHOLE[name]] = value
        else:
            stem, _, end = name.rpartition(".")
            if stem in WHOLE:
                made[f"{WHOLE[stem]}.{end}"] = value
    return made
