"""The guider that flags and the stored settings of a picture name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..guidance import Adaptive, Constant, Gate, Guider, Interval, Scale, Sum, Term
from ..guidance.engine.config import build, reject
from ..guidance.engine.scale import ScaleLike
from ..pipelines.language.parse import UNGUIDED, parse_guider, read_settings

DEFAULT = "cfg"


def guider_from(given: Mapping[str, Any], stored: Mapping[str, Any]) -> Guider:
    """The guider that the flags name, or the stored one with the changes of the flags.

    Args:
        given: the flags that were given, by the name of their argument.
        stored: settings read from a picture, see ``png.read``; may be empty.

    Raises:
        ValueError: flags exclude each other or are not allowed.
    """
    scale, arguments = given.get("guidance_scale"), given.get("guider_arg", [])
    if "guider_config" in given and "guider" in given:
        raise reject("", "guider", given["guider"], "none beside --guider-config")
    if "guider_config" not in given and ("guider" in given or "guider" not in stored):
        if "guider" not in given and scale is None:
            scale = stored.get("guidance_scale")
        guider = parse_guider(given.get("guider", DEFAULT), scale, arguments)
    else:
        config = given.get("guider_config")
        functions = given.get("functions", False)
        guider = (
            Guider.load(config, functions=functions)
            if config
            else Guider.from_dict(stored["guider"], functions=functions)
        )
        if arguments:
            guider = with_arguments(guider, arguments)
        if scale is not None:
            guider = with_scale(guider, scale)
    gates: tuple[tuple[str, type[Gate], Callable[[Any], dict]], ...] = (
        ("interval", Interval, lambda value: {"low": value[0], "high": value[1]}),
        ("adaptive", Adaptive, lambda value: {"threshold": value}),
    )
    for name, kind, settings in gates:
        if name in given:
            if str(given.get("guider", "")).strip().lower() == UNGUIDED:
                raise reject("", name, given[name], f"none beside the guider {UNGUIDED}")
            guider = with_gate(guider, kind, **settings(given[name]))
    return guider


def with_arguments(guider: Guider, arguments: list[str]) -> Guider:
    """The same guider with ``KEY=VALUE`` settings changed; it must be a single method."""
    if not isinstance(guider, Term):
        raise reject("", "guider_arg", arguments[0], "none beside a sum of methods")
    changes = read_settings(type(guider), arguments, named=True)
    try:
        return guider.replace(**changes)
    except TypeError as error:
        raise ValueError(f"guider_arg {', '.join(arguments)!r}: {error}") from None


def with_scale(guider: Guider, scale: float) -> Guider:
    """The same guider with another scale in every term; gates stay around it."""

    def change(value: Scale) -> ScaleLike:
        if not isinstance(value, Constant):
            raise ValueError(
                f"guidance_scale: expected a guider whose scale is one number, got {value}"
            )
        return scale

    return _rescaled(guider, lambda value: value.map_inner(change))


def with_gate(guider: Guider, kind: type[Gate], **settings: Any) -> Guider:
    """The same guider with a gate around every term's scale.

    If there is a gate of this kind already, its settings are changed instead.
    """

    def has(value: Scale) -> bool:
        return isinstance(value, kind) or (isinstance(value, Gate) and has(value.scale))

    def change(value: Scale) -> Scale:
        if isinstance(value, kind):
            return value.replace(**settings)
        if isinstance(value, Gate) and has(value):
            return value.replace(scale=change(value.scale))
        return build(kind, {"scale": value, **settings})

    return _rescaled(guider, change)


def _rescaled(guider: Guider, change: Callable[[Scale], ScaleLike]) -> Guider:
    terms = tuple(term.replace(scale=change(term.when)) for term in guider.terms)
    return terms[0] if isinstance(guider, Term) else Sum(terms, (*guider.prepares, *guider.posts))
