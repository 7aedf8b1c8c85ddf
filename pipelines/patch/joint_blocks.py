"""Blocks in which text and picture share one attention: which of the two comes first."""

from __future__ import annotations

from typing import NamedTuple


class Order(NamedTuple):
    """Which comes first, "picture" or "text"; "" where it is not known.

    Attributes:
        tokens: in the sequence that attention sees.
        returns: in the pair of hidden states that the block returns.
    """

    tokens: str
    returns: str


# By how the name of a block's class begins.
ORDERS = {
    "AuraFlow": Order("text", "text"),
    "Bria": Order("text", "text"),
    "Chroma": Order("text", ""),
    "ChromaTransformer": Order("text", "text"),
    "CogVideoX": Order("text", "picture"),
    "CogView": Order("text", "picture"),
    "ConsisID": Order("text", "picture"),
    "EasyAnimate": Order("text", "picture"),
    "Flux": Order("text", "text"),
    "GlmImage": Order("text", "picture"),
    "HunyuanImage": Order("picture", "picture"),
    "HunyuanVideo": Order("picture", "picture"),
    "JointTransformerBlock": Order("picture", "text"),
    "JoyImage": Order("picture", "picture"),
    "LongCatImage": Order("text", "text"),
    "Mochi": Order("", "picture"),
    "MotifVideo": Order("picture", "picture"),
    "OvisImage": Order("text", "text"),
    "QwenImage": Order("text", "text"),
}


def order_of(kind: type | None) -> Order:
    """The order of a class of blocks, by the longest name that fits."""
    name = "" if kind is None else kind.__name__
    found = max((key for key in ORDERS if name.startswith(key)), key=len, default="")
    return ORDERS.get(found, Order("", ""))
