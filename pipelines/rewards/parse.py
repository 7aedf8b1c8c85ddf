"""Rewards as words: ``emoji-clip``, ``2*pickscore+0.1*jpeg(quality=50)``, ``module:function``."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..language.parse import split

# Where each reward is; what a heavy one needs is imported when it is asked for.
NAMES = {
    "emoji-clip": "clip:EmojiClip",
    "clip": "clip:Clip",
    "pickscore": "clip:PickScore",
    "hpsv2": "hps:HPSv2",
    "aesthetic": "aesthetic:Aesthetic",
    "imagereward": "image_reward:ImageReward",
    "count": "count:Count",
    "jpeg": "jpeg:Jpeg",
    "brightness": "colour:Brightness",
    "colour": "colour:Colour",
    "saturation": "colour:Saturation",
}
JUDGES = {"emoji-judge": "clip:EmojiJudge"}  # look on, and are never trained with


class Weighted(nn.Module):
    """A weighted sum of rewards.

    Args:
        parts: (weight, reward) pairs.
    """

    def __init__(self, parts: Sequence[tuple[float, Callable[..., Tensor]]]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.networks = nn.ModuleList(part for _, part in parts if isinstance(part, nn.Module))

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return sum(weight * part(images, prompts) for weight, part in self.parts)  # type: ignore[return-value]


def parse_reward(text: str, *, judges: bool = False) -> nn.Module:
    """Read ``[weight*]name[(key=value, ...)]`` joined by ``+``.

    A name is one of ``NAMES``, or ``module:function`` for a function or class of your own; a class
    is called with the settings first.

    Args:
        judges: allow what must never be trained with.

    Raises:
        ValueError: a name, a weight or a setting is not allowed, or weights cannot be found.
    """
    parts = []
    for item in split(text, "+"):
        match = re.fullmatch(r"(?:([^*()]+)\*)?\s*([\w.:-]+)\s*(?:\((.*)\))?", item.strip())
        if not match:
            raise ValueError(
                f"reward has the part {item!r}; allowed is [WEIGHT*]NAME[(KEY=VALUE, ...)]"
            )
        try:
            weight = float(match[1] or 1)
        except ValueError:
            raise ValueError(f"reward has the weight {match[1]!r}; allowed is a number") from None
        parts.append((weight, _make(match[2], match[3] or "", judges)))
    (weight, only), *others = parts
    single = weight == 1 and isinstance(only, nn.Module) and not others
    reward: Any = only if single else Weighted(parts)
    reward.text = text
    return reward


def _make(name: str, text: str, judges: bool) -> Callable[..., Tensor]:
    known = NAMES | (JUDGES if judges else {})
    if name in JUDGES and not judges:
        raise ValueError(
            f"reward is {name!r}, which judges what is published and is never trained with; "
            f"allowed is one of {', '.join(NAMES)}, or module:function"
        )
    own = name not in known
    if own and ":" not in name:
        raise ValueError(
            f"reward is {name!r}; allowed is one of {', '.join(known)}, or module:function"
        )
    module, _, attribute = (name if own else f"{__package__}.{known[name]}").partition(":")
    try:
        made: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reward is {name!r}; allowed is what can be imported ({error})") from None
    settings = dict(_setting(name, item) for item in split(text, ",") if item)
    if not inspect.isclass(made):
        if settings:
            raise ValueError(f"reward {name!r} is a function; allowed are settings for classes")
        if not callable(made):
            raise ValueError(f"reward is {name!r}, {made!r}; allowed is a function or a class")
        return made
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    known_settings = inspect.signature(made).parameters.items()
    allowed = [key for key, parameter in known_settings if parameter.kind == plain]
    for key in settings:
        if key not in allowed:
            raise ValueError(
                f"reward {name} has no setting {key!r}; allowed is "
                f"{'one of ' + ', '.join(allowed) if allowed else 'none'}"
            )
    built: Any = made(**settings)
    return built


def _setting(name: str, item: str) -> tuple[str, Any]:
    key, equals, value = item.partition("=")
    if not equals:
        raise ValueError(f"reward {name} has the setting {item!r}; allowed is KEY=VALUE")
    try:
        return key.strip(), float(value)
    except ValueError:
        return key.strip(), value.strip()
