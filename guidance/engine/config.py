"""The settings of a method: validated when made, and the same again from JSON."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Self

from .files import write_text


def number(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_ends: bool = False,
    optional: bool = False,
) -> Any:
    """A dataclass field for a finite number in [low, high], or (low, high) with ``open_ends``."""
    return dataclasses.field(
        default=default,
        metadata={"low": low, "high": high, "open": open_ends, "optional": optional},
    )


def choice(default: str, *values: str) -> Any:
    """A dataclass field for one of some words."""
    return dataclasses.field(default=default, metadata={"values": values})


def reject(owner: object, name: str, value: object, allowed: str) -> ValueError:
    """The one form of complaint: the argument, its value and what is allowed."""
    who = owner if isinstance(owner, str) else type(owner).__name__
    shown = repr(value)
    if len(shown) > 300:  # a network, or a thousand prompts
        shown = f"a {type(value).__name__}"
    return ValueError(f"{who}: {name} is {shown}; allowed is {allowed}")


# What Diffusers and the methods' authors call it.
ELSEWHERE = {
    "adaptive_projected_guidance_momentum": "momentum",
    "adaptive_projected_guidance_rescale": "rescale",
    "cfg_scale": "scale",
    "guidance_rescale": "guider | Rescale(phi)",
    "guidance_scale": "scale",
    "norm_threshold": "rescale",
    "parallel_weights": "parallel",
    "start": "scale=Interval(scale, low, high)",
    "stop": "scale=StepAG(scale, share)",
}


def no_setting(kind: type, name: str, value: object, known: Sequence[str]) -> str:
    """The complaint of a setting that a class does not have, with the one that may be meant."""
    here, near = ELSEWHERE.get(name), difflib.get_close_matches(name, known, n=1)
    hint = ""
    if here and (here in known or ("scale" in known and not here.isidentifier())):
        hint = f"; in place of {name} use {here}"
    elif near:
        hint = f"; perhaps {near[0]} is meant"
    return (
        f"{kind.__name__} has no setting {name} (= {value!r}); allowed is one of its settings: "
        f"{', '.join(known)}{hint}"
    )


def is_number(value: Any) -> bool:
    """Is it a finite real number, of Python or numpy?"""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and -1e300 < value < 1e300


def fields_of(config: Config | type[Config]) -> tuple[dataclasses.Field, ...]:
    """The settings of a concrete config, in order."""
    return dataclasses.fields(config)  # type: ignore[arg-type]


class Config:
    """Base of the frozen dataclasses that describe a method.

    ``to_dict`` and ``from_dict`` are inverse to each other; the class is stored under ``"type"``.
    Fields hold numbers, words, ``None``, other configs, or lists of those.
    """

    registry: ClassVar[dict[str, type[Config]]] = {}
    formula: ClassVar[str] = ""  # in a line, for the table of methods
    first_order: ClassVar[bool] = False  # is it meant for solvers of first order alone?
    works_on: ClassVar[str] = ""  # what it is about: "x0", the network's "output", "any"

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """An empty one, if it has all of these settings."""
        known = inspect.signature(cls.__init__).parameters
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in known.values()):
            for name, value in settings.items():
                if name not in known:
                    raise TypeError(no_setting(cls, name, value, list(known)[1:]))
        return super().__new__(cls)

    def __init_subclass__(cls) -> None:
        known = Config.registry.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__:
            raise ValueError(
                f"class {cls.__name__} of {cls.__module__}: the name belongs to one of "
                f"{known.__module__}; allowed is another name, by which JSON tells them apart"
            )
        Config.registry[cls.__name__] = cls

    @classmethod
    def runs_code(cls, settings: dict[str, Any]) -> bool:
        """Does making it from JSON, or using it, import what these settings name?"""
        return False

    @property
    def intent(self) -> str:
        """What it leaves to a profile of the model to say in numbers, in words; "" is nothing."""
        return ""

    def __post_init__(self) -> None:
        for field in fields_of(self):
            rule, value = field.metadata, getattr(self, field.name)
            if "values" in rule and value not in rule["values"]:
                raise reject(self, field.name, value, "one of " + ", ".join(rule["values"]))
            if "low" in rule and not (value is None and rule["optional"]):
                low, high, strict = rule["low"], rule["high"], rule["open"]
                inside = is_number(value) and (
                    low < value < high if strict else low <= value <= high
                )
                if not inside:
                    raise reject(self, field.name, value, _range(**rule))
                self._set(field.name, float(value))

    def _set(self, name: str, value: object) -> None:
        """Normalise a field from ``__post_init__`` (the dataclasses are frozen)."""
        object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> Self:
        """A copy with other settings."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> Any:
        """A JSON value from which ``from_dict`` makes an equal config."""
        values = {field.name: _encode(getattr(self, field.name)) for field in fields_of(self)}
        return {"type": type(self).__name__, **values}

    @classmethod
    def from_dict(cls, data: Any, *, functions: bool = False) -> Self:
        """The inverse of ``to_dict``.

        Args:
            functions: also import the functions that the data names. That runs code, so only for
                data of your own.

        Raises:
            ValueError: the type is unknown or not a ``cls``, a setting is missing or not allowed.
        """
        try:
            config = cls._from_json(_decode(data, functions))
        except RecursionError:
            raise ValueError(f"{cls.__name__}: its JSON form is nested too deeply") from None
        if not isinstance(config, cls):
            raise reject(cls.__name__, "type", data, f"the JSON form of a {cls.__name__}")
        return config

    @classmethod
    def _from_json(cls, value: Any) -> Any:
        """What a decoded JSON value stands for where a ``cls`` is wanted."""
        return value


class Stored(Config):
    """Base of the configs that are files by themselves."""

    def save(self, path: str | Path) -> None:
        """Write the JSON form to a file."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path, *, functions: bool = False) -> Self:
        """Read what ``save`` wrote; ``functions`` as for ``from_dict``.

        Raises:
            ValueError: the file cannot be read, is not JSON, or not a valid config.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise reject(cls.__name__, "path", str(path), f"a JSON file ({error})") from None
        return cls.from_dict(data, functions=functions)


def intents(config: Any) -> list[str]:
    """What a config, and those in it, leave to a profile to say; empty for explicit numbers."""
    if isinstance(config, (list, tuple)):
        return [text for item in config for text in intents(item)]
    if not isinstance(config, Config):
        return []
    own = [config.intent] if config.intent else []
    parts: tuple[dataclasses.Field, ...] = ()
    if dataclasses.is_dataclass(config):
        parts = fields_of(config)
    return own + [text for part in parts for text in intents(getattr(config, part.name))]


def _range(low: float, high: float, open: bool, optional: bool) -> str:
    if low == -math.inf and high == math.inf:
        text = "a finite number"
    elif high == math.inf:
        text = f"a number {'above' if open else 'of at least'} {low:g}"
    else:
        text = f"a number between {low:g} and {high:g}" + (", exclusive" if open else "")
    return text + (" or None" if optional else "")


def _encode(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any, functions: bool) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, functions) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.get("type")
    kind = Config.registry.get(name) if isinstance(name, str) else None
    if kind is None or not dataclasses.is_dataclass(kind):
        known = sorted(name for name, c in Config.registry.items() if dataclasses.is_dataclass(c))
        raise reject("JSON", "type", name, "one of " + ", ".join(known))
    settings = {key: item for key, item in value.items() if key != "type"}
    if kind.runs_code(settings) and not functions:
        raise reject("JSON", str(name), settings, "only with functions=True, which runs it")
    settings = {key: _decode(item, functions) for key, item in value.items() if key != "type"}
    return build(kind, settings)


def build(kind: type[Config], settings: dict[str, Any]) -> Any:
    """``kind(**settings)``, with a complaint that names the setting instead of a TypeError."""
    known = [field.name for field in fields_of(kind) if field.init]
    for name, value in settings.items():
        if name not in known:
            raise ValueError(no_setting(kind, name, value, known))
    for field in fields_of(kind):
        none = field.default is field.default_factory is dataclasses.MISSING
        if none and field.init and field.name not in settings:
            raise ValueError(f"{kind.__name__}: {field.name} is missing; it has no default")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None
