"""Guiders as words: ``apg``, ``cfg(5)+rescale``, ``apg(eta=0.2)+adaptive(0.99)``."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any

from ..guidance import CFG, Config, Gate, Guider, Post, Sum, Term
from ..guidance.config import build, fields_of

UNGUIDED = "none"


def _subclasses(base: type[Config]) -> dict[str, type[Config]]:
    found: dict[str, type[Config]] = {}
    for kind in Config.registry.values():
        if issubclass(kind, base) and dataclasses.is_dataclass(kind):
            found[kind.__name__.lower()] = kind
    return found


def term_names() -> dict[str, type[Config]]:
    """Guidance methods by their lower-case name."""
    return _subclasses(Term)


def gate_names() -> dict[str, type[Config]]:
    """Rules of when to guide, by their lower-case name."""
    return _subclasses(Gate)


def post_names() -> dict[str, type[Config]]:
    """What is done to the result, by its lower-case name."""
    return _subclasses(Post)


def parse_guider(
    text: str, guidance_scale: float | None = None, arguments: Sequence[str] = ()
) -> Guider:
    """Read ``name(settings)+name(settings)...``.

    Methods add up, ``adaptive`` and ``interval`` say when all of them act, ``rescale`` acts on the
    result, and ``none`` does not guide. Settings are ``key=value`` or values in order.

    Args:
        guidance_scale: the scale of every method that does not say its own.
        arguments: further ``key=value`` settings of the (one) method.

    Raises:
        ValueError: a name or a setting is unknown or not allowed.
    """
    known = term_names() | gate_names() | post_names()
    terms: list[tuple[type[Config], dict[str, Any]]] = []
    gates: list[tuple[type[Config], dict[str, Any]]] = []
    posts: list[Post] = []
    for item in split(text, "+"):
        match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", item)
        name = match.group(1).lower() if match else item
        if name == UNGUIDED and text.strip().lower() == UNGUIDED:
            return CFG(1.0)
        if not match or name not in known:
            raise ValueError(
                f"guider has the part {item!r}; allowed is one of {', '.join([*known, UNGUIDED])}"
            )
        kind = known[name]
        # The scale of a gate is the method's, so its own settings start behind it.
        names = list(inspect.signature(kind).parameters)[1 if issubclass(kind, Gate) else 0 :]
        settings = read_settings(kind.__name__, split(match.group(2) or "", ","), names)
        if issubclass(kind, Term):
            terms.append((kind, settings))
        elif issubclass(kind, Gate):
            gates.append((kind, settings))
        else:
            posts.append(build(kind, settings))
    if not terms:
        raise ValueError(
            f"guider is {text!r}; allowed is at least one of {', '.join(term_names())}"
        )
    if arguments and len(terms) > 1:
        raise ValueError(
            f"guider-arg is {arguments[0]!r}; allowed with one method, here are {len(terms)}"
        )
    made = []
    for kind, settings in terms:
        names = list(inspect.signature(kind).parameters)
        if guidance_scale is not None:
            settings.setdefault("scale", guidance_scale)
        settings |= read_settings(kind.__name__, arguments, names)
        term = build(kind, settings)
        for gate, options in gates:
            term = term.replace(scale=build(gate, {"scale": term.scale, **options}))
        made.append(term)
    return made[0] if len(made) == 1 and not posts else Sum(tuple(made), tuple(posts))


def split(text: str, separator: str) -> list[str]:
    """Split at ``separator`` outside parentheses; empty text gives nothing."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == separator and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def read_settings(owner: str, items: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """``key=value`` items, or values in the order of ``names``, as keyword arguments."""
    settings: dict[str, Any] = {}
    for position, item in enumerate(items):
        key, equals, value = item.partition("=")
        if not equals:
            if position >= len(names):
                raise ValueError(
                    f"{owner} has no setting for {item!r}; allowed are {', '.join(names)}"
                )
            key, value = names[position], item
        settings[key.strip()] = _value(value.strip())
    return settings


def _value(text: str) -> Any:
    """A number, a list of numbers in brackets, None, or the word itself."""
    if text.startswith("[") and text.endswith("]"):
        return tuple(_value(item) for item in split(text[1:-1], ","))
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        return text


def arguments_of(kind: type[Config]) -> list[str]:
    """``name=default`` of every setting of a method that is a number or a word."""
    shown = []
    for field in fields_of(kind):
        if field.name == "scale" and issubclass(kind, Gate):
            continue
        if isinstance(field.default, (int, float, str)) or field.default is None:
            text = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
            shown.append(f"{field.name}={text}")
    return shown
