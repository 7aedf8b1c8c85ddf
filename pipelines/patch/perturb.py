"""Change a network for one prediction: what the perturbed references mean on real modules.

Modules get another class for the duration of one forward (``class_swap.py``): nothing stays behind,
and offloading, whose hooks are instance attributes, goes on. A compiled network runs its changed
forward uncompiled.
"""

from __future__ import annotations

import functools
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
from .joint_blocks import order_of
from .layers import attentions, choose_layers, whole

FEED_FORWARDS = ("ff", "ffn", "feed_forward", "img_mlp", "mlp")
_ORDERS: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


class Changes:
    """Perturbations of networks in one run, in which their modules are looked for once."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, Perturbation], tuple[bool, Any]] = {}

    def find(self, network: Any, change: Perturbation) -> tuple[bool, Any]:
        """Is the network compiled, and which of its modules are changed?

        Raises:
            ValueError: it cannot be changed so, and why.
        """
        key = (id(network), change)
        if key not in self._found:
            _check_cache(whole(network), change)
            self._found[key] = _is_compiled(network), modules_of(change, whole(network))
        return self._found[key]

    @contextmanager
    def on(self, network: Any, change: Perturbation | None, inputs: Inputs) -> Iterator[Any]:
        """The network inside is as ``change`` says, for one forward; afterwards it is as it was.

        It gives the tensors from within the network that the change fills in, if any.

        Args:
            inputs: what it is about to be called with.

        Raises:
            ValueError: it cannot be changed so, and why.
        """
        if change is None:
            yield None
            return
        compiled, modules = self.find(network, change)
        eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
        with eager, applied(change, whole(network), modules, inputs) as inner:
            yield inner


def changed(network: Any, change: Perturbation | None, inputs: Inputs) -> AbstractContextManager:
    """``Changes.on`` for one forward alone."""
    return Changes().on(network, change, inputs)


@functools.singledispatch
def modules_of(change: Perturbation, network: nn.Module) -> Any:
    """The modules that a perturbation of this kind changes, for ``applied``.

    Raises:
        ValueError: this network cannot be changed so, and why.
    """
    if type(change).apply is Perturbation.apply:
        allowed = "a Perturbation with an apply(network, inputs) of its own"
        raise reject("guided", "reference", type(change).__name__, allowed)
    return None


@functools.singledispatch
def applied(
    change: Perturbation, network: nn.Module, modules: Any, inputs: Inputs
) -> AbstractContextManager[Any]:
    """The network inside is changed: by the perturbation itself, unless its kind is known here."""
    return change.apply(network, inputs)


@modules_of.register
def _(change: AdapterOff, network: nn.Module) -> list[Any]:
    return _adapters(network, change)


@modules_of.register(PerturbedAttention)
@modules_of.register(SmoothedAttention)
def _(change: Any, network: nn.Module) -> dict[str, nn.Module]:
    return choose_layers(change, network, change.layers, attention=True)


@modules_of.register
def _(change: SkipLayers, network: nn.Module) -> list[nn.Module]:
    units = choose_layers(change, network, change.layers, attention=change.what == "attention")
    if change.what == "block":
        return list(units.values())
    return [part for name, unit in units.items() for part in _parts(change, name, unit)]


@applied.register(PerturbedAttention)
@applied.register(SmoothedAttention)
def _(
    change: Any, network: nn.Module, modules: dict[str, nn.Module], inputs: Inputs
) -> AbstractContextManager[None]:
    return perturbed_attention(network, change, modules, inputs)


@applied.register
@contextmanager
def _(
    change: SkipLayers, network: nn.Module, modules: list[nn.Module], inputs: Inputs
) -> Iterator[None]:
    method = {"block": _skip_block, "attention": _skip_attention, "feed_forward": _skip}
    with ExitStack() as stack:
        for module in modules:
            swap(module, {"__call__": method[change.what]})
            stack.callback(restore, module)
        yield


@applied.register
@contextmanager
def _(change: AdapterOff, network: nn.Module, modules: list[Any], inputs: Inputs) -> Iterator[None]:
    """Only the list of active adapters changes: PEFT's own switch also changes what is trained."""
    before = [vars(layer).get("_active_adapter") for layer in modules]
    try:
        for layer in modules:
            off = layer.active_adapters if change.names is None else change.names
            layer._active_adapter = [name for name in layer.active_adapters if name not in off]
        yield
    finally:
        for layer, active in zip(modules, before, strict=True):
            if active is None:
                vars(layer).pop("_active_adapter", None)
            else:
                layer._active_adapter = active


def _check_cache(network: nn.Module, change: Perturbation) -> None:
    if getattr(network, "is_cache_enabled", False):
        raise ValueError(
            f"{type(change).__name__}: the {type(network).__name__} has a "
            f"{type(network._cache_config).__name__}, which would mix what the changed network "
            "computes with what the other does; allowed is no cache (disable_cache())"
        )


def _is_compiled(network: nn.Module) -> bool:
    return whole(network) is not network or any(
        getattr(module, "_compiled_call_impl", None) is not None for module in network.modules()
    )


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
    if isinstance(text, Tensor) and (known := order_of(kind).returns):
        return f"{known} first"
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
