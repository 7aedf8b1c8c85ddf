"""Guiders as words: ``apg``, ``cfg(5)+rescale``, ``apg(eta=0.2)+adaptive(0.99)``,
``cfg(linear(1,9), reference=weak-model(emoji-weak))``."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Sequence
from typing import Any

from ...guidance import (
    CFG,
    Config,
    Gate,
    Guider,
    Post,
    Prepare,
    Reference,
    Scale,
    Sum,
    Term,
)
from ...guidance.engine.config import build, fields_of
from ...samplers import SADA

UNGUIDED = "none"
# What references are called elsewhere, and the settings of Diffusers' guiders.
REFERENCES = {
    "autoguidance": "weakmodel", "pag": "perturbedattention", "seg": "smoothedattention",
    "slg": "skiplayers",
}  # fmt: skip
SETTINGS = {
    "guidance_scale": "scale", "cfg_scale": "scale", "norm_threshold": "rescale",
    "adaptive_projected_guidance_rescale": "rescale",
    "adaptive_projected_guidance_momentum": "momentum", "guidance_rescale": "phi",
}  # fmt: skip


def _subclasses(base: type[Config]) -> dict[str, type[Config]]:
    found: dict[str, type[Config]] = {}
    for kind in Config.registry.values():
        made = dataclasses.is_dataclass(kind) and not inspect.isabstract(kind)
        if made and issubclass(kind, base):
            found[kind.__name__.lower()] = kind
    return dict(sorted(found.items()))


def term_names() -> dict[str, type[Config]]:
    """Guidance methods by their lower-case name."""
    return _subclasses(Term)


def gate_names() -> dict[str, type[Config]]:
    """Rules of when to guide, by their lower-case name."""
    return _subclasses(Gate)


def post_names() -> dict[str, type[Config]]:
    """What is done to the result, or before it, by its lower-case name."""
    return _subclasses(Post) | _subclasses(Prepare)


def reference_names() -> dict[str, type[Config]]:
    """Where the second prediction comes from, by its lower-case name."""
    return _subclasses(Reference)


def schedule_names() -> dict[str, type[Config]]:
    """Scales that change during a run, by their lower-case name."""
    plain = ("constant", "perimage", "custom")
    return {
        name: kind
        for name, kind in _subclasses(Scale).items()
        if not issubclass(kind, Gate) and name not in plain
    }


def _meant(item: str, known: dict[str, type[Config]]) -> str:
    """What a part that is unknown may have been meant to say; "" is anybody's guess."""
    name, _, inner = item.partition("(")
    if reference := _reference_like(name):
        scale = inner.removesuffix(")").strip()
        scale = scale if re.fullmatch(r"[\d.]+", scale) else "SCALE"
        return f"cfg({scale}, reference={reference})"
    return next(iter(difflib.get_close_matches(_plain(name), known, 1)), "")


def _reference_like(name: str) -> str:
    """A reference as it is written here, by its name here or elsewhere; "" is neither."""
    plain = _plain(name)
    kind = reference_names().get(REFERENCES.get(plain, plain))
    if kind is None:
        return ""
    try:
        kind()
    except (TypeError, ValueError):  # something must be said
        return f"{hyphenated(kind)}(...)"
    return f"{hyphenated(kind)}()"


def hyphenated(kind: type[Config]) -> str:
    """A class's name as one types it, ``weak-model``."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


def _plain(name: str) -> str:
    """``Weak-Model`` and ``weak_model`` are ``weakmodel``."""
    return re.sub("[-_]", "", name.strip().lower())


def parse_guider(
    text: str, guidance_scale: float | None = None, arguments: Sequence[str] = ()
) -> Guider:
    """Read ``name(settings)+name(settings)...``.

    Methods add up, ``adaptive`` and ``interval`` say when all of them act, ``rescale`` acts on the
    result, and ``none`` alone does not guide. Settings are ``key=value`` or values in order; a
    value may be a reference or a schedule with settings of its own, or a list in brackets, between
    semicolons where its items contain commas.

    Args:
        guidance_scale: the scale of every method; none of them may say its own then.
        arguments: further ``key=value`` settings of the (one) method.

    Raises:
        ValueError: a name or a setting is unknown or not allowed.
    """
    if text.strip().lower() == UNGUIDED:
        for name, value in (("guidance_scale", guidance_scale), ("guider_arg", arguments or None)):
            if value is not None:
                raise ValueError(
                    f"{name} is {value!r}; allowed with a guider other than {UNGUIDED}"
                )
        return CFG(1.0)
    for opening, closing in ("()", "[]"):
        if text.count(opening) != text.count(closing):
            raise ValueError(f"guider is {text!r}; allowed are as many {closing} as {opening}")
    known = term_names() | gate_names() | post_names()
    terms: list[tuple[type[Config], dict[str, Any]]] = []
    gates: list[tuple[type[Config], dict[str, Any]]] = []
    posts: list[Post | Prepare] = []
    for item in split(text, "+|"):
        try:
            found = _call(item, known)
        except RecursionError:
            raise ValueError("guider is nested too deeply; allowed are a few levels") from None
        if found is None:
            hint = f" (did you mean {near}?)" if (near := _meant(item, known)) else ""
            allowed = f"{', '.join(known)}, or {UNGUIDED} alone"
            raise ValueError(f"guider has the part {item!r}{hint}; allowed is one of {allowed}")
        kind, settings = found
        if issubclass(kind, Term):
            terms.append((kind, settings))
        elif issubclass(kind, Gate):
            gates.append((kind, settings))
        else:
            posts.append(build(kind, settings))
    if not terms:
        allowed = f"at least one of {', '.join(term_names())}"
        raise ValueError(f"guider is {text!r}; allowed is {allowed}")
    if arguments and len(terms) > 1:
        raise ValueError(
            f"guider_arg is {arguments[0]!r}; allowed with one method, here are {len(terms)}"
        )
    made = []
    for kind, settings in terms:
        more = read_settings(kind, arguments, named=True)
        if guidance_scale is not None:
            more = _merge(kind, {"scale": guidance_scale}, more)
        term = build(kind, _merge(kind, settings, more))
        for gate, options in gates:
            term = term.replace(scale=build(gate, {"scale": term.scale, **options}))
        made.append(term)
    return made[0] if len(made) == 1 and not posts else Sum(tuple(made), tuple(posts))


def parse_acceleration(text: str) -> SADA | None:
    """Read ``sada`` or ``sada(settings)``; "" is none.

    Raises:
        ValueError: it is something else, or a setting is not allowed.
    """
    if not text.strip():
        return None
    found = _call(text, {"sada": SADA})
    if found is None:
        raise ValueError(
            f"accelerate is {text!r}; allowed is sada, with settings as in sada(late=1)"
        )
    return build(*found)


def split(text: str, separators: str) -> list[str]:
    """The parts between separators, each a letter, that are outside parentheses; stripped."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter in separators and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in [*parts, text[start:]]]


def _call(text: str, known: dict[str, type[Config]]) -> tuple[type[Config], dict[str, Any]] | None:
    """``name`` or ``name(settings)`` of something known, and its settings."""
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if not match or _plain(match[1]) not in known:
        return None
    kind = known[_plain(match[1])]
    return kind, read_settings(kind, split(match[2], ",") if (match[2] or "").strip() else [])


def read_settings(kind: type[Config], items: Sequence[str], named: bool = False) -> dict[str, Any]:
    """``key=value`` items as keyword arguments of ``kind``; values alone go by order.

    The scale of a gate is that of the method, so it cannot be set there.
    """
    names = list(inspect.signature(kind).parameters)[1 if issubclass(kind, Gate) else 0 :]
    settings: dict[str, Any] = {}
    for position, item in enumerate(items):
        key, equals, value = item.partition("=")
        if "(" in key or "[" in key:  # the = belongs to what is inside
            key, equals, value = item, "", ""
        if not equals and named:
            raise ValueError(f"guider_arg is {item!r}; allowed is KEY=VALUE")
        if not equals:
            key, value = names[position] if position < len(names) else item, item
        key = key.strip()
        if key not in names:
            here = SETTINGS.get(key)
            hint = f" (the {key} of others is {here} here)" if here in names else ""
            allowed = f"one of its settings: {', '.join(names)}{hint}"
            raise ValueError(f"{kind.__name__} has no setting {key!r}; allowed is {allowed}")
        found = (_texts if key == "prompts" else _value)(value.strip())
        if isinstance(found, str) and key in ("scale", "reference"):
            _check_word(kind, key, found)
        settings = _merge(kind, settings, {key: found})
    return settings


def _check_word(kind: type[Config], key: str, word: str) -> None:
    """Complain of a word where a scale or a reference is meant, and say what was."""
    name, _, inner = word.removesuffix(")").partition("(")
    if key == "reference":
        near = _reference_like(name)
        hint = f" (did you mean {near}?)" if near else ""
        allowed = ", ".join(hyphenated(one) for one in reference_names().values())
        raise ValueError(
            f"{kind.__name__}: reference is {word!r}{hint}; allowed is one of {allowed}"
        )
    if (gate := gate_names().get(_plain(name))) is not None:
        values = split(inner, ",") if inner.strip() else []
        own = values.pop(0) if values and "=" not in values[0] else ""
        method, when = hyphenated(kind), hyphenated(gate)
        method += f"({own})" if own else ""
        when += f"({', '.join(values)})" if values else ""
        raise ValueError(f"{kind.__name__}: scale is {word!r}; allowed in words is {method}+{when}")


def _merge(kind: type[Config], one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    for name in one.keys() & other.keys():
        raise ValueError(
            f"{kind.__name__}: {name} is given twice, as {one[name]} and {other[name]}; "
            "allowed is once"
        )
    return one | other


def _texts(text: str) -> Any:
    """A list in brackets of texts as they stand, or of whole numbers, which are classes."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    items = split(text[1:-1], ";" if ";" in text else ",")
    return tuple(int(item) if item.isdecimal() else item for item in items)


def _value(text: str) -> Any:
    """A number, a list in brackets, None, a part with settings, or the word itself."""
    if text.startswith("[") and text.endswith("]"):
        return tuple(_value(item) for item in split(text[1:-1], ";" if ";" in text else ","))
    parts = reference_names() | schedule_names() | term_names()
    if (found := _call(text, parts)) is not None:
        return build(*found)
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        return text


def arguments_of(kind: type[Config]) -> list[str]:
    """``name=default`` of every setting of a method that is a number or a word."""
    try:
        made: Any = kind()  # some defaults follow from others
    except (TypeError, ValueError):
        made = None
    shown = []
    for field in fields_of(kind):
        if field.name == "scale" and issubclass(kind, Gate):
            continue
        if field.default is field.default_factory is dataclasses.MISSING:
            shown.append(field.name.upper())
        elif isinstance(field.default, (int, float, str)) or field.default is None:
            value = field.default if made is None else getattr(made, field.name)
            text = f"{value:g}" if isinstance(value, float) else str(value)
            shown.append(f"{field.name}={text}")
    return shown
