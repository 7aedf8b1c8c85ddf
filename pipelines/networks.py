"""Second networks by name, for ``WeakModel``."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import models
from .swap import class_of


def load_network(model: Any, like: nn.Module) -> Any:
    """A network as it is, or by name: in the type and on the device of the pipeline's denoiser.

    Args:
        model: a network, ``None``, or the name of a shipped model, of a folder or an id on the Hub
            in Diffusers format: of a network, or of a pipeline that has one.
        like: the pipeline's denoiser.

    Raises:
        ValueError: it cannot be read.
    """
    if not isinstance(model, str):
        return model
    parameter = next(like.parameters())
    kept = _KEPT.setdefault(like, {})
    key = (model, parameter.dtype, parameter.device)
    if key not in kept:
        kept[key] = _load(model, class_of(like), parameter.dtype, parameter.device)
    return kept[key]


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
