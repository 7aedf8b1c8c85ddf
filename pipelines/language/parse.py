"""Guiders as words: ``apg``, ``cfg(5)+rescale``, ``apg(eta=0.2)+adaptive(0.99)``,
``cfg(linear(1,9), reference=weak-model(emoji-weak))``, ``mine.py:Halved(3)+interval(0.3, 5)``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...guidance import CFG, Config, Gate, Guider, Post, Prepare, Reference, Sum, Term
from ...guidance.engine import user_code
from ...guidance.engine.config import build, no_setting, own_class, reject
from ...samplers import SADA
from .names import (
    gate_names,
    hyphenated,
    instead_of,
    plain,
    reference_names,
    schedule_names,
    term_names,
    transform_names,
    with_parentheses,
    written_here,
)

UNGUIDED = "none"
# ``name``, ``name(settings)``, or either of a file or module of the user's own.
PART = re.compile(r"\s*(?:([^\s()\[\]=,;]+):)?([\w-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
# Settings that hold a scale, a reference or a guider, and not the name of something else.
NESTED = ("scale", "reference", "otherwise", "guider")

Settings = dict[str, Any]


def parse_guider(
    text: str, guidance_scale: float | None = None, arguments: Sequence[str] = ()
) -> Guider:
    """Read ``name(settings)+name(settings)...``.

    Methods add up, ``adaptive`` and ``interval`` say when all of them act, ``rescale`` acts on the
    result, and ``none`` alone does not guide. Settings are ``key=value`` or values in order; a
    value may be a reference or a schedule with settings of its own, or a list in brackets, between
    semicolons where its items contain commas. In place of a name ``FILE.py:Name`` or
    ``module:Name`` takes a class of one's own; its code is run.

    Args:
        text: the guider.
        guidance_scale: the scale of every method; none of them may say its own then.
        arguments: further ``key=value`` settings of the (one) method.

    Raises:
        ValueError: a name or a setting is unknown or not allowed.
    """
    if text.strip().lower() == UNGUIDED:
        for name, value in (("guidance_scale", guidance_scale), ("guider_arg", arguments or None)):
            if value is not None:
                raise reject("", name, value, f"none beside the guider {UNGUIDED}")
        return CFG(1.0)
    for opening, closing in ("()", "[]"):
        if text.count(opening) != text.count(closing):
            raise reject("", "guider", text, f"as many {closing} as {opening}")
    if "++" in text.replace(" ", ""):  # it would be read as an empty part
        raise ValueError(f"guider: got {text!r}; {written_here('cfg++')}")
    terms: list[tuple[type[Config], Settings]] = []
    gates: list[tuple[type[Config], Settings]] = []
    transforms: list[Post | Prepare] = []
    for kind, settings in map(_part, split(text, "+|")):
        if issubclass(kind, Term):
            terms.append((kind, settings))
        elif issubclass(kind, Gate):
            gates.append((kind, settings))
        else:
            transforms.append(build(kind, settings))
    if not terms:
        raise reject("", "guider", text, f"at least one of {', '.join(_listed(term_names()))}")
    if arguments and len(terms) > 1:
        raise ValueError(f"guider: expected one method beside guider_arg, got {len(terms)}")
    made = []
    for kind, settings in terms:
        more = read_settings(kind, arguments, named=True)
        if guidance_scale is not None:
            more = _merge(kind, {"scale": guidance_scale}, more)
        term = build(kind, _merge(kind, settings, more))
        for gate, options in gates:
            term = term.replace(scale=build(gate, {"scale": term.scale, **options}))
        made.append(term)
    return made[0] if len(made) == 1 and not transforms else Sum(tuple(made), tuple(transforms))


def parse_skip(text: str) -> SADA | None:
    """Read ``sada`` or ``sada(settings)``; "" is none.

    Raises:
        ValueError: it is something else, or a setting is not allowed.
    """
    if not text.strip():
        return None
    match = PART.fullmatch(text)
    if not match or match[1] or plain(match[2]) != "sada":
        raise reject("", "skip", text, "sada, with settings as in sada(late=1)")
    return build(SADA, read_settings(SADA, _items(match[3])))


def split(text: str, separators: str) -> list[str]:
    """The parts between separators, each a letter, that are outside parentheses; stripped."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter in separators and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in [*parts, text[start:]]]


def _items(inside: str | None) -> list[str]:
    """The settings between parentheses."""
    return split(inside, ",") if inside and inside.strip() else []


def _part(item: str) -> tuple[type[Config], Settings]:
    """A part of a sum, and its settings.

    Raises:
        ValueError: it is none.
    """
    known = term_names() | gate_names() | transform_names()
    try:
        found = _call(item, known, own=True)
    except RecursionError:
        raise ValueError("guider: expected a few levels of parentheses, got too many") from None
    if found is None:
        if sentence := instead_of(item):
            raise ValueError(f"guider: got {item!r}; {sentence}")
        names = ", ".join(_listed(known))
        raise reject("", "guider", item, f"one of {names}, FILE.py:NAME, or {UNGUIDED} alone")
    kind = found[0]
    if not issubclass(kind, (Term, Gate, Post, Prepare)):
        where = "cfg(SCALE, reference={})" if issubclass(kind, Reference) else "cfg({})"
        raise ValueError(f"guider: expected it inside a method, {where.format(item)}, got {item!r}")
    return found


def _listed(kinds: Mapping[str, type[Config]]) -> list[str]:
    return [hyphenated(kind) for kind in kinds.values()]


def _call(
    text: str, known: Mapping[str, type[Config]], own: bool
) -> tuple[type[Config], Settings] | None:
    """The class that ``name`` or ``name(settings)`` names, and its settings.

    Args:
        known: classes by their plain names.
        own: may it be a class of a user's own file, which is run?
    """
    match = PART.fullmatch(text)
    if not match or (match[1] and not own):
        return None
    kind = own_class(f"{match[1]}:{match[2]}") if match[1] else known.get(plain(match[2]))
    return None if kind is None else (kind, read_settings(kind, _items(match[3])))


def read_settings(kind: type[Config], items: Sequence[str], named: bool = False) -> Settings:
    """``key=value`` items as keyword arguments of ``kind``; values alone go by order.

    The scale of a gate is that of the method, so it cannot be set there.

    Args:
        kind: whose settings they are.
        items: the settings.
        named: all of them need their key.

    Raises:
        ValueError: one is unknown, twice there, or not allowed.
    """
    names = list(inspect.signature(kind).parameters)[1 if issubclass(kind, Gate) else 0 :]
    settings: Settings = {}
    for position, item in enumerate(items):
        key, equals, value = item.partition("=")
        if "(" in key or "[" in key:  # the = belongs to what is inside
            key, equals, value = item, "", ""
        if not equals and named:
            raise reject("", "guider_arg", item, "KEY=VALUE")
        if not equals:
            key, value = names[position] if position < len(names) else item, item
        key, value = key.strip(), value.strip()
        if key not in names:
            raise ValueError(no_setting(kind, key, value, names))
        found = _texts(value) if key == "prompts" else _value(value, own=key in NESTED)
        if isinstance(found, str) and key in ("scale", "reference"):
            _check_word(kind, key, found)
        settings = _merge(kind, settings, {key: found})
    return settings


def _check_word(kind: type[Config], key: str, word: str) -> None:
    """Complain of a word where a scale or a reference is meant, and say what was."""
    name, _, inner = word.removesuffix(")").partition("(")
    if key == "reference":
        known = reference_names()
        hint = f"; {sentence}" if (sentence := written_here(name)) else ""
        if plain(name) in known:
            hint = f"; write {with_parentheses(known[plain(name)])}"
        expected = f"one of {', '.join(_listed(known))}"
        raise ValueError(f"{reject(kind.__name__, 'reference', word, expected)}{hint}")
    if (gate := gate_names().get(plain(name))) is not None:
        values = _items(inner)
        own = values.pop(0) if values and "=" not in values[0] else ""
        method, when = hyphenated(kind), hyphenated(gate)
        method += f"({own})" if own else ""
        when += f"({', '.join(values)})" if values else ""
        raise reject(kind.__name__, "scale", word, f"{method}+{when} in words")


def _merge(kind: type[Config], one: Settings, other: Settings) -> Settings:
    for name in one.keys() & other.keys():
        raise ValueError(
            f"{kind.__name__}: {name}: expected one value, got {one[name]} and {other[name]}"
        )
    return one | other


def _texts(text: str) -> str | tuple[str | int, ...]:
    """A list in brackets of texts as they stand, or of whole numbers, which are classes."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    items = split(text[1:-1], ";" if ";" in text else ",")
    return tuple(int(item) if item.isdecimal() else item for item in items)


def _value(text: str, own: bool) -> Any:
    """A number, a list in brackets, None, a part with settings, or the word itself.

    Args:
        text: the value.
        own: may it be a class, or a function of the step, of a user's own file?
    """
    if text.startswith("[") and text.endswith("]"):
        items = split(text[1:-1], ";" if ";" in text else ",")
        return tuple(_value(item, own) for item in items)
    match = PART.fullmatch(text)
    if own and match and match[1] and match[3] is None:
        function = user_code.find(f"{match[1]}:{match[2]}")
        if callable(function) and not isinstance(function, type):
            return function
    parts = reference_names() | schedule_names() | term_names()
    if (found := _call(text, parts, own)) is not None:
        return build(*found)
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        return text
