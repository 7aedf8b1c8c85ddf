"""Methods by name: as they are typed here, and what others call them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re

from ...guidance import Config, Gate, Post, Prepare, Reference, Scale, Term
from ...guidance.engine.config import fields_of

# Names that people know, and what to write here: {w} is their scale, {w1} one more where theirs
# counts from 0. They are answered and not read: the same number would mean another strength.
ELSEWHERE = {
    "pag": "cfg({w1}, reference=perturbed-attention())",
    "perturbedattentionguidance": "cfg({w1}, reference=perturbed-attention())",
    "seg": "cfg({w1}, reference=smoothed-attention())",
    "smoothedenergy": "cfg({w1}, reference=smoothed-attention())",
    "smoothedenergyguidance": "cfg({w1}, reference=smoothed-attention())",
    "slg": "cfg({w1}, reference=skip-layers())",
    "skiplayerguidance": "cfg({w1}, reference=skip-layers())",
    "stg": "cfg({w1}, reference=skip-layers())",
    "autoguidance": "cfg({w}, reference=weak-model(MODEL))",
    "gfcg": "cfg({w}, reference=confusion([PROMPT; PROMPT], classifier=MODEL))",
    "cfg++": "cfg(cfg-plus-plus(0.6))",
    "cfgpp": "cfg(cfg-plus-plus(0.6))",
    "cfgzero": "cfg-zero-star({w})",
    "cfgzero*": "cfg-zero-star({w})",
    "classifierfreezerostarguidance": "cfg-zero-star({w})",
    "classifierfreeguidance": "cfg({w})",
    "adaptiveprojectedguidance": "apg({w})",
    "normthreshold": "apg(rescale=RADIUS)",
    "tangentialclassifierfreeguidance": "tcfg({w})",
    "frequencydecoupledguidance": "fdg({w})",
    "mambog": "magnitude-aware({w})",
    "magnitudeawareguidance": "magnitude-aware({w})",
    "epcfg": "cfg+energy-preserving",
    "guidancerescale": "cfg+rescale({w})",
    "dynamicthresholding": "cfg+dynamic-threshold",
    "adaptiveguidance": "cfg+adaptive",
    "guidanceinterval": "cfg+interval(LOW, HIGH)",
    "limitedinterval": "cfg+interval(LOW, HIGH)",
}


def _subclasses(base: type[Config]) -> dict[str, type[Config]]:
    found: dict[str, type[Config]] = {}
    for kind in Config.registry.values():
        made = dataclasses.is_dataclass(kind) and not inspect.isabstract(kind)
        if made and issubclass(kind, base):
            found.setdefault(plain(kind.__name__), kind)  # this library's come first
    return dict(sorted(found.items()))


def term_names() -> dict[str, type[Config]]:
    """Guidance methods by their plain name."""
    return _subclasses(Term)


def gate_names() -> dict[str, type[Config]]:
    """Rules of when to guide, by their plain name."""
    return _subclasses(Gate)


def transform_names() -> dict[str, type[Config]]:
    """What is done to the result, or before it, by its plain name."""
    return _subclasses(Post) | _subclasses(Prepare)


def reference_names() -> dict[str, type[Config]]:
    """Where the second prediction comes from, by its plain name."""
    return _subclasses(Reference)


def schedule_names() -> dict[str, type[Config]]:
    """Scales that change during a run, by their plain name."""
    numbers = ("constant", "perimage", "custom")  # what is written as a number, or in Python
    return {
        name: kind
        for name, kind in _subclasses(Scale).items()
        if not issubclass(kind, Gate) and name not in numbers
    }


def plain(name: str) -> str:
    """``Weak-Model`` and ``weak_model`` are ``weakmodel``."""
    return re.sub("[-_]", "", name.strip().lower())


def hyphenated(kind: type[Config]) -> str:
    """A class's name as one types it: ``weak-model``, ``cfg-plus-plus-2m``."""
    return re.sub("(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[A-Z][a-z])", "-", kind.__name__).lower()


def written_here(name: str, scale: str = "") -> str:
    """What one writes here for a name that others use, with their scale; "" if nobody does."""
    found = ELSEWHERE.get(plain(name), "")
    if not found:
        return ""
    try:
        w, more = f"{float(scale):g}", f"{float(scale) + 1:g}"
    except ValueError:
        w = more = "SCALE"
    hint = ", where a scale of 1 is no guidance" if "{w1}" in found else ""
    return f"{name.strip()} is written {found.format(w=w, w1=more)} here{hint}"


def with_parentheses(kind: type[Config]) -> str:
    """A class as it is typed: ``negative()``, or ``weak-model(...)`` if something must be said."""
    try:
        kind()
    except (TypeError, ValueError):
        return f"{hyphenated(kind)}(...)"
    return f"{hyphenated(kind)}()"


def instead_of(text: str) -> str:
    """A sentence about a part that is no part of a guider, such as ``pag(3)``; "" if none fits."""
    name, _, inner = text.removesuffix(")").partition("(")
    if sentence := written_here(name, inner):
        return sentence
    if (kind := reference_names().get(plain(name))) is not None:
        return f"a reference is a setting: cfg(SCALE, reference={with_parentheses(kind)})"
    if plain(name) in schedule_names():
        return f"a schedule is the scale of a method: cfg({text})"
    known = term_names() | gate_names() | transform_names()
    near = difflib.get_close_matches(plain(name), [*known, *ELSEWHERE], 1)
    if near and near[0] in ELSEWHERE:
        return written_here(near[0], inner)
    return f"did you mean {hyphenated(known[near[0]])}?" if near else ""


def arguments_of(kind: type[Config]) -> list[str]:
    """``name=default`` of every setting of a method that is a number or a word."""
    try:
        made: Config | None = kind()  # some defaults follow from others
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
