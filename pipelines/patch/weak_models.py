"""Second networks, given or by name, for ``WeakModel``."""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import models
from .call_arguments import Inputs
from .class_swap import class_of, is_swapped


def load_network(model: Any, like: nn.Module, x: Tensor) -> Any:
    """A network as it is, or by name: in the denoiser's type and where the latents are.

    Args:
        model: a network, a function, ``None``, or the name of a shipped model, of a folder or an id
            on the Hub in Diffusers format: of a network, or of a pipeline that has one.
        like: the pipeline's denoiser.
        x: the latents.

    Raises:
        ValueError: it cannot be read.
    """
    if not isinstance(model, str):
        return model
    dtype = _dtype_of(like) or x.dtype
    kept = _KEPT.setdefault(like, {})
    key = (model, dtype, x.device)
    if key not in kept:
        kept[key] = _load(model, class_of(like), dtype, x.device)
    return kept[key]


def second_network(model: Any, like: nn.Module, x: Tensor) -> Callable[..., Any] | None:
    """What is called in place of the pipeline's denoiser; ``None`` where it is the denoiser.

    A network is called in its own type of numbers, and a function as it is.

    Args:
        model, like, x: see ``load_network``.

    Raises:
        ValueError: it cannot be read, or is a network that is guided itself; when called, it does
            not take the arguments of the denoiser.
    """
    model = load_network(model, like, x)
    if not isinstance(model, nn.Module):
        return model
    if is_swapped(model):
        raise ValueError(
            f"WeakModel: model is the {type(model).__name__} of a pipeline that is guided, so that "
            "both predictions would be the same; allowed is another network, such as a smaller one"
        )
    return functools.partial(_answer, model, class_of(like).__name__)


def _answer(network: nn.Module, like: str, *args: Any, **kwargs: Any) -> Any:
    """What ``network`` says to a call that was made for another one."""
    inputs, dtype = Inputs(args, kwargs), _dtype_of(network)
    cast = inputs if dtype is None else inputs.cast(dtype)
    try:
        return network(*cast.args, **cast.kwargs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        where = " and ".join(sorted({str(p.device) for p in network.parameters()})) or "no device"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"WeakModel: model is a {type(network).__name__} on {where} that cannot be called as "
            f"the pipeline's {like} is, with latents of shape {tuple(inputs.x.shape)} on "
            f"{inputs.x.device}; allowed is a network that takes the same arguments, on the same "
            f"device ({reason})"
        ) from error


def _dtype_of(network: nn.Module) -> torch.dtype | None:
    """The type in which a network computes; ``None`` where it has no parameters."""
    dtype = getattr(network, "dtype", None)  # Diffusers' networks know it, quantised ones too
    if not isinstance(dtype, torch.dtype):
        dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    return dtype if dtype in _COMPUTED else None


_COMPUTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# As long as the denoiser lives beside which they are used.
_KEPT: weakref.WeakKeyDictionary[nn.Module, dict[Any, nn.Module]] = weakref.WeakKeyDictionary()


def _load(name: str, kind: Any, dtype: torch.dtype, device: torch.device) -> nn.Module:
    source = models.path(name) if name in models.NAMES else name
    where = Path(source)
    options = {}
    for part in ("unet", "transformer"):
        if (where / part / "config.json").is_file():
            options["subfolder"] = part
    try:
        if not where.exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise OSError("there is no such folder")
        network = kind.from_pretrained(source, torch_dtype=dtype, **options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shipped = ", ".join(name for name in models.NAMES if name.endswith("weak"))
        raise ValueError(
            f"WeakModel: model is {name!r}; allowed is {shipped}, a folder or an id on the "
            f"Hub of a {kind.__name__} ({reason})"
        ) from None
    return network.to(device).eval().requires_grad_(False)
