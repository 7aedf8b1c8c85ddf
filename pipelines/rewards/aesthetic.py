"""The aesthetic score of LAION: a small head on CLIP's picture features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .resize import Preprocess
from .weights import file, pretrained


class Aesthetic(nn.Module):
    """``sac+logos+ava1-l14-linearMSE`` of the improved aesthetic predictor, from 1 to 10.

    Linear layers on the normalised features of CLIP ViT-L/14 (C. Schuhmann 2022,
    github.com/christophschuhmann/improved-aesthetic-predictor). The reward of AlignProp, DRaFT and
    DDPO.

    Args:
        model: a folder or an id on the Hub with a ``CLIPModel``.
        head: the same for ``aesthetic-model.pth``, or that file.
    """

    def __init__(
        self,
        model: str = "openai/clip-vit-large-patch14",
        head: str = "trl-lib/ddpo-aesthetic-predictor",
    ) -> None:
        super().__init__()
        from transformers import CLIPModel

        self.network = pretrained(CLIPModel.from_pretrained, model, "aesthetic")
        self.preprocess = Preprocess(self.network.config.vision_config.image_size)
        path = file(head, "aesthetic-model.pth", "aesthetic(head=...)")
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.head = linear_layers(state, "layers.")

    def features(self, images: Tensor) -> Tensor:
        """(B, D) features of pictures."""
        return self.network.get_image_features(pixel_values=self.preprocess(images)).pooler_output

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.head(normalize(self.features(images), dim=1)).squeeze(1)


def linear_layers(state: Mapping[str, Tensor], prefix: str) -> nn.Sequential:
    """The linear layers ``prefix + number`` of a state, in order; dropout is left out."""
    ending = ".weight"
    numbers = sorted(
        int(name[len(prefix) : -len(ending)])
        for name in state
        if name.startswith(prefix) and name.endswith(ending)
    )
    layers = []
    for number in numbers:
        weight, bias = (state[f"{prefix}{number}.{part}"].float() for part in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return nn.Sequential(*layers)
