"""Change a network for one prediction: what the perturbed references mean on real modules.

Modules get another class for the duration of one forward (``swap.py``): nothing stays behind, and
offloading, whose hooks are instance attributes, goes on. A compiled network runs its changed
forward uncompiled.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...guidance import (
    AdapterOff,
    Perturbation,
    PerturbedAttention,
    SkipLayers,
    SmoothedAttention,
)
from ...guidance.engine.config import reject
from .attention import arguments, hidden_of, perturbed_attention
from .call_arguments import Inputs
from .class_swap import class_of, restore, swap
from .layers import attentions, choose_layers, whole

# Blocks that return picture and text, by how their class's name begins; others are tried once.
TEXT_FIRST = (
    "AuraFlow", "Bria", "ChromaTransformer", "Flux", "JointTransformerBlock", "LongCatImage",
    "OvisImage", "QwenImage",
)  # fmt: skip
PICTURE_FIRST = (
    "CogVideoX", "CogView", "ConsisID", "EasyAnimate", "GlmImage", "HunyuanImage", "HunyuanVideo",
    "JoyImage", "Mochi", "MotifVideo",
)  # fmt: skip
FEED_FORWARDS = ("ff", "ffn", "feed_forward", "img_mlp", "mlp")
_ORDERS: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


@contextmanager
def changed(network: Any, change: Perturbation | None, inputs: Inputs) -> Iterator[None]:
    """The network inside is as ``change`` says, for one forward; afterwards it is as it was.

    Args:
        inputs: what it is about to be called with.
    """
    if change is None:
        yield
        return
    check_change(network, change)
    with _uncompiled(network), _changes(whole(network), change, inputs):
        yield


def check_change(network: Any, change: Perturbation) -> None:
    """Can this network be changed so?

    Raises:
        ValueError: why not.
    """
    name, plain = type(change).__name__, whole(network)
    if getattr(plain, "is_cache_enabled", False):
        raise ValueError(
            f"{name}: the {type(plain).__name__} has a {type(plain._cache_config).__name__}, which "
            "would mix what the changed network computes with what the other does; allowed is no "
            "cache (disable_cache())"
        )
    if isinstance(change, AdapterOff):
        _adapters(plain, change)
    elif isinstance(change, (PerturbedAttention, SmoothedAttention)):
        choose_layers(change, plain, change.layers, attention=True)
    elif isinstance(change, SkipLayers):
        units = choose_layers(change, plain, change.layers, attention=change.what == "attention")
        if change.what != "block":
            for unit_name, unit in units.items():
                _parts(change, unit_name, unit)
    else:
        allowed = "PerturbedAttention, SmoothedAttention, SkipLayers or AdapterOff"
        raise reject("guided", "reference", name, allowed)


def _uncompiled(network: nn.Module) -> AbstractContextManager[Any]:
    compiled = whole(network) is not network or any(
        getattr(module, "_compiled_call_impl", None) is not None for module in network.modules()
    )
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _changes(network: nn.Module, change: Any, inputs: Inputs) -> AbstractContextManager[None]:
    if isinstance(change, AdapterOff):
        return _without_adapters(network, change)
    if isinstance(change, SkipLayers):
        return _without_layers(network, change)
    return perturbed_attention(network, change, inputs)


@contextmanager
def _without_layers(network: nn.Module, change: SkipLayers) -> Iterator[None]:
    units = choose_layers(change, network, change.layers, attention=change.what == "attention")
    method = {"block": _skip_block, "attention": _skip_attention, "feed_forward": _skip}
    with ExitStack() as stack:
        for name, unit in units.items():
            for part in [unit] if change.what == "block" else _parts(change, name, unit):
                swap(part, {"__call__": method[change.what]})
                stack.callback(restore, part)
        yield


def _parts(change: SkipLayers, name: str, unit: nn.Module) -> list[nn.Module]:
    """The attentions or feed-forwards of a block."""
    if change.what == "attention":
        found = list(attentions(unit).values())
    else:
        found = [m for name, m in unit.named_modules() if name.split(".")[-1] in FEED_FORWARDS]
    if not found:
        allowed = f"block, for {name} is a {type(unit).__name__} without a {change.what}"
        raise reject(change, "what", change.what, allowed)
    return found


def _skip(original: Any, module: Any, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_of(arguments(module, args, kwargs))


def _skip_attention(original: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
    """Computed all the same: what it answers shows whether it is joint, or cross-attention."""
    given = arguments(module, args, kwargs)
    hidden, text = hidden_of(given), given.get("encoder_hidden_states")
    result = original(module, *args, **kwargs)
    if isinstance(result, tuple):
        return (hidden, text, *result[2:])
    return hidden if text is None or text is hidden else result


def _skip_block(original: Any, block: Any, *args: Any, **kwargs: Any) -> Any:
    given = arguments(block, args, kwargs)
    hidden, text = hidden_of(given), given.get("encoder_hidden_states")
    order = _order(original, block, args, kwargs, hidden, text)
    if order == "one":
        return hidden
    return (hidden, text) if order == "picture first" else (text, hidden)


def _order(original: Any, block: Any, args: Any, kwargs: Any, hidden: Tensor, text: Any) -> str:
    """What a block of this class returns; if it is not known, of one call.

    Raises:
        ValueError: that does not tell.
    """
    kind = class_of(block)
    if isinstance(text, Tensor):
        for order, names in (("text first", TEXT_FIRST), ("picture first", PICTURE_FIRST)):
            if kind.__name__.startswith(names):
                return order
    if kind in _ORDERS:
        return _ORDERS[kind]
    result = original(block, *args, **kwargs)
    shapes = [getattr(part, "shape", None) for part in result] if type(result) is tuple else []
    if isinstance(result, Tensor) and result.shape == hidden.shape:
        order = "one"
    elif isinstance(text, Tensor) and text.shape != hidden.shape and len(shapes) == 2:
        orders = {hidden.shape: "picture first", text.shape: "text first"}
        order = orders.get(shapes[0], "")  # type: ignore[arg-type]
    else:
        order = ""
    if not order:
        raise ValueError(
            f"SkipLayers: what a {kind.__name__} returns does not show which is the picture; "
            "allowed is what='attention' or 'feed_forward', or other layers"
        )
    _ORDERS[kind] = order
    return order


@contextmanager
def _without_adapters(network: nn.Module, change: AdapterOff) -> Iterator[None]:
    """Only the list of active adapters changes: PEFT's own switch also changes what is trained."""
    layers = _adapters(network, change)
    before = [vars(layer).get("_active_adapter") for layer in layers]
    try:
        for layer in layers:
            off = layer.active_adapters if change.names is None else change.names
            layer._active_adapter = [name for name in layer.active_adapters if name not in off]
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            if active is None:
                vars(layer).pop("_active_adapter", None)
            else:
                layer._active_adapter = active


def _adapters(network: nn.Module, change: AdapterOff) -> list[Any]:
    """The layers with adapters of PEFT, which is imported if there are any.

    Raises:
        ValueError: there is nothing to switch off.
    """
    peft, kind = sys.modules.get("peft.tuners.tuners_utils"), type(network).__name__
    layers: list[Any] = [
        module for module in network.modules() if peft and isinstance(module, peft.BaseTunerLayer)
    ]
    if not layers:
        raise ValueError(
            f"AdapterOff: the {kind} has no adapter; allowed is one with a LoRA, by "
            "pipe.load_lora_weights(...)"
        )
    if any(layer.merged for layer in layers):
        raise ValueError(
            f"AdapterOff: an adapter is fused into the weights of the {kind}; allowed is one that "
            "is not (pipe.unfuse_lora())"
        )
    if any(getattr(layer, "_disable_adapters", False) for layer in layers):
        raise ValueError(
            f"AdapterOff: the adapters of the {kind} are switched off already; allowed is active "
            "ones (pipe.enable_lora())"
        )
    active = list(dict.fromkeys(name for layer in layers for name in layer.active_adapters))
    missing = [name for name in change.names or () if name not in active]
    if missing or not active:
        allowed = f"of the active adapters: {', '.join(active) or 'none'}"
        raise reject(change, "names", missing or change.names, allowed)
    return layers
