"""The blocks of a network, by number or by name, and the attention in them."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ...guidance.engine.config import reject

BESIDE = ("refiner", "text_", "context_")  # stacks of blocks that do not work on the picture


def is_unet(network: nn.Module) -> bool:
    return hasattr(network, "down_blocks") and hasattr(network, "up_blocks")


def whole(network: Any) -> nn.Module:
    """The network itself, where ``torch.compile`` wrapped it."""
    return getattr(network, "_orig_mod", network)


def is_self_attention(module: nn.Module) -> bool:
    """May it be one? Whether a call is one shows in its arguments, see ``attention.py``."""
    return hasattr(module, "processor") and not getattr(module, "is_cross_attention", False)


def attentions(module: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in module.named_modules() if is_self_attention(m)}


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The transformer blocks that work on the picture, in order."""
    if is_unet(network):
        pattern = re.compile(r".*\btransformer_blocks\.\d+")
        return {name: m for name, m in network.named_modules() if pattern.fullmatch(name)}
    return {
        f"{name}.{number}": block
        for name, stack in network.named_children()
        if isinstance(stack, nn.ModuleList) and not any(word in name for word in BESIDE)
        for number, block in enumerate(stack)
        if any(hasattr(module, "processor") for module in block.modules())
    }


def choose_layers(
    owner: Any, network: nn.Module, layers: tuple[int | str, ...] | None, attention: bool
) -> dict[str, nn.Module]:
    """The blocks that ``layers`` names; of a U-Net the self-attentions, where ``attention``.

    Raises:
        ValueError: there is none of such a number or name.
    """
    unet = is_unet(network)
    there = attentions(network) if unet and attention else blocks(network)
    kind = type(network).__name__
    if not there:
        raise ValueError(
            f"{type(owner).__name__}: no blocks with self-attention are found in the {kind}; "
            "allowed are other networks of Diffusers"
        )
    names = list(there)
    if layers is None:
        middle = range(7, 10) if len(names) >= 10 else [len(names) // 2]
        layers = ("mid_block",) if unet else tuple(middle)
    chosen: dict[str, nn.Module] = {}
    for layer in layers:
        if isinstance(layer, str):
            found = [name for name in names if f"{name}.".startswith(f"{layer}.")]
        else:
            found = [] if unet else names[layer : layer + 1]
        if not found:
            raise reject(owner, "layers", layer, _allowed(names, unet, kind))
        chosen |= {name: there[name] for name in found}
    return chosen


def _allowed(names: list[str], unet: bool, kind: str) -> str:
    stacks: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        stem = ".".join(parts[: 1 + (len(parts) > 1 and parts[1].isdigit())])
        stacks.setdefault(stem if unet else parts[0], []).append(name)
    if unet:
        return f"how names of the {kind} begin: {', '.join(stacks)}"
    spans = ", ".join(f"{some[0]} to {some[-1]}" for some in stacks.values())
    return f"a number from 0 to {len(names) - 1}, or a name: {spans} of the {kind}"
