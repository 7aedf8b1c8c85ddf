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

from . import user_code
from .files import write_text


@dataclasses.dataclass(frozen=True)
class _Number:
    """The kind of a field that holds a number; ``expected`` says which, in words."""

    expected: str
    low: float
    high: float
    open_ends: bool
    whole: bool
    optional: bool

    def read(self, value: Any) -> float | int | None:
        """The value as it is kept; an empty ``ValueError`` if it is not allowed."""
        if value is None and self.optional:
            return None
        if not is_number(value) or (self.whole and value != int(value)):
            raise ValueError
        low, high = self.low, self.high
        if not (low < value < high if self.open_ends else low <= value <= high):
            raise ValueError
        return int(value) if self.whole else float(value)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The kind of a field that holds one of some words."""

    expected: str
    values: tuple[str, ...]

    def read(self, value: object) -> str:
        """The word; an empty ``ValueError`` if it is not allowed."""
        if not isinstance(value, str) or value not in self.values:
            raise ValueError
        return value


def number(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_ends: bool = False,
    optional: bool = False,
) -> Any:
    """A dataclass field for a finite number in [low, high], or in (low, high) with ``open_ends``.

    Args:
        default: its default; without one the field must be given.
        optional: ``None`` is allowed, too.
    """
    return _field(default, "a number", low, high, open_ends, False, optional)


def integer(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    optional: bool = False,
) -> Any:
    """A dataclass field for a whole number in [low, high]; 3.0 is one, and becomes 3.

    Args:
        default: its default; without one the field must be given.
        optional: ``None`` is allowed, too.
    """
    return _field(default, "a whole number", low, high, False, True, optional)


def choice(default: str, *values: str) -> Any:
    """A dataclass field for one of the words ``values``."""
    kind = _Choice("one of " + ", ".join(filter(None, values)), values)
    return dataclasses.field(default=default, metadata={"kind": kind})


def _field(
    default: Any, what: str, low: float, high: float, open_ends: bool, whole: bool, optional: bool
) -> Any:
    ends = [f"{end:g}" if abs(end) < 1e6 else str(end) for end in (low, high)]
    if low == -math.inf and high == math.inf:
        text = what if whole else "a finite number"
    elif high == math.inf:
        text = f"{what} {'above' if open_ends else 'of at least'} {ends[0]}"
    else:
        text = f"{what} between {' and '.join(ends)}" + (", exclusive" if open_ends else "")
    kind = _Number(text + (" or None" if optional else ""), low, high, open_ends, whole, optional)
    return dataclasses.field(default=default, metadata={"kind": kind})


def as_integer(
    owner: object, name: str, value: object, *, low: float = -math.inf, high: float = math.inf
) -> int:
    """The whole number in [low, high] that an argument is to be, as ``integer`` says of a field.

    Raises:
        ValueError: it is none; ``owner`` is whose argument it is, as for ``reject``.
    """
    kind = integer(low=low, high=high).metadata["kind"]
    try:
        found: int = kind.read(value)
    except ValueError:
        raise reject(owner, name, value, kind.expected) from None
    return found


def check_fields(owner: Any) -> None:
    """Check the fields of a dataclass by their kinds, and keep the values as these read them.

    Raises:
        ValueError: one is not allowed.
    """
    for field in dataclasses.fields(owner):
        if (kind := field.metadata.get("kind")) is not None:
            value = getattr(owner, field.name)
            try:
                object.__setattr__(owner, field.name, kind.read(value))
            except ValueError:
                raise reject(owner, field.name, value, kind.expected) from None


def reject(owner: object, name: str, value: object, expected: str) -> ValueError:
    """The one form of complaint: the argument, what is expected, and what was given.

    Args:
        owner: whose argument it is: an object, or words; "" leaves it out.
    """
    who = owner if isinstance(owner, str) else type(owner).__name__
    shown = repr(value)
    if len(shown) > 300:  # a network, or a thousand prompts
        shown = f"a {type(value).__name__}"
    return ValueError(f"{who}{': ' if who else ''}{name}: expected {expected}, got {shown}")


NAMES_CODE = "functions=True (--functions of a command), since it names code that would be run"
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
        f"{kind.__name__} has no setting {name} (= {value!r}): expected one of "
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

    ``to_dict`` and ``from_dict`` are inverse to each other; the class is stored under ``"type"``:
    by its name, or as ``mine.py:Halved`` or ``module:Halved`` if it is not one of this library.
    Fields hold numbers, words, ``None``, other configs, or lists of those.

    Attributes:
        registry: all classes that were defined, by their ``type_name``.
        type_name: what JSON calls the class.
        formula: in a line, for the table of methods.
        first_order: is it meant for solvers of first order alone?
        works_on: the space in which the formula is meant: "x0", the network's "output", "any".
    """

    registry: ClassVar[dict[str, type[Config]]] = {}
    type_name: ClassVar[str] = "Config"
    formula: ClassVar[str] = ""
    first_order: ClassVar[bool] = False
    works_on: ClassVar[str] = ""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """An empty one, if its class is complete and has all of these settings.

        Raises:
            TypeError: the class is no frozen dataclass, or has no such setting.
        """
        if "__init__" not in vars(cls) or "__dataclass_params__" in vars(cls):
            complain_of_class(cls)  # else it is no dataclass on purpose
        known = inspect.signature(cls.__init__).parameters
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in known.values()):
            for name, value in settings.items():
                if name not in known:
                    raise TypeError(no_setting(cls, name, value, list(known)[1:]))
        return super().__new__(cls)

    def __init_subclass__(cls) -> None:
        cls.type_name = user_code.name_of(cls)
        Config.registry[cls.type_name] = cls

    @classmethod
    def runs_code(cls, settings: dict[str, Any]) -> bool:
        """Does making it from JSON, or using it, import what these settings name?"""
        return False

    @property
    def intent(self) -> str:
        """What it leaves to a profile of the model to say in numbers, in words; "" is nothing."""
        return ""

    def __post_init__(self) -> None:
        check_fields(self)

    def _set(self, name: str, value: object) -> None:
        """Normalise a field from ``__post_init__`` (the dataclasses are frozen)."""
        object.__setattr__(self, name, value)

    def __str__(self) -> str:
        if not dataclasses.is_dataclass(self):
            return type(self).__name__
        values = [getattr(self, field.name) for field in fields_of(self)]
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        return f"{type(self).__name__}({', '.join(shown)})"

    def replace(self, **changes: Any) -> Self:
        """A copy with other settings."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> Any:
        """A JSON value from which ``from_dict`` makes an equal config."""
        values = {field.name: _encode(getattr(self, field.name)) for field in fields_of(self)}
        return {"type": self.type_name, **values}

    @classmethod
    def from_dict(cls, data: Any, *, functions: bool = False) -> Self:
        """The inverse of ``to_dict``.

        Args:
            functions: also import the functions and classes of a user's own that the data names.
                That runs code, so only for data of your own.

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
    if kind is None and isinstance(name, str) and ":" in name:
        if not functions:
            raise reject("JSON", "type", name, NAMES_CODE)
        kind = own_class(name)
    if kind is None or not dataclasses.is_dataclass(kind):
        known = sorted(name for name, c in Config.registry.items() if dataclasses.is_dataclass(c))
        raise reject("JSON", "type", name, "one of " + ", ".join(known))
    settings = {key: item for key, item in value.items() if key != "type"}
    if kind.runs_code(settings) and not functions:
        raise reject("JSON", str(name), settings, NAMES_CODE)
    settings = {key: _decode(item, functions) for key, item in value.items() if key != "type"}
    return build(kind, settings)


def own_class(name: str) -> type[Config]:
    """The class that ``mine.py:Halved`` names; its file is run.

    Raises:
        ValueError: there is none, or it is not a method.
    """
    kind = user_code.find(name)
    if not isinstance(kind, type) or not issubclass(kind, Config):
        raise ValueError(
            f"expected a class derived from Term, Reference, Scale, Post or Prepare, got {name!r}"
        )
    try:
        complain_of_class(kind)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return kind


def complain_of_class(kind: type[Config]) -> None:
    """Complain of a class without its decorator: its fields would be no settings.

    Raises:
        TypeError: it is no dataclass, or one that is not frozen.
    """
    made = vars(kind).get("__dataclass_params__")
    inherited = dataclasses.is_dataclass(kind) and made is None
    own = inspect.get_annotations(kind).values() if inherited else ()
    fields = [one for one in own if "ClassVar" not in str(one)]
    if not dataclasses.is_dataclass(kind) or fields or (made is not None and not made.frozen):
        got = "@dataclass" if made is not None else "none"
        raise TypeError(
            f"class {kind.__name__}: expected the decorator @dataclass(frozen=True) above it, "
            f"got {got}"
        )


def build(kind: type[Config], settings: dict[str, Any]) -> Any:
    """``kind(**settings)``, with a complaint that names the setting instead of a TypeError."""
    known = [field.name for field in fields_of(kind) if field.init]
    for name, value in settings.items():
        if name not in known:
            raise ValueError(no_setting(kind, name, value, known))
    for field in fields_of(kind):
        none = field.default is field.default_factory is dataclasses.MISSING
        if none and field.init and field.name not in settings:
            raise ValueError(f"{kind.__name__}: {field.name}: expected a value, got none")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None
