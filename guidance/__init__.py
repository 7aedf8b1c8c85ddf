"""The mathematics of guidance: torch only, no pipeline, no I/O beyond JSON.

A method is one file: in ``terms`` (how predictions are combined), ``references`` (with what),
``scales`` (when) or ``transforms`` (before and after). It is found there by this page; there is no
list to add it to. ``make methods`` writes what checkers and editors read, ``__init__.pyi``.
"""

from importlib import import_module as _import
from inspect import isabstract as _is_abstract
from pkgutil import iter_modules as _modules

from .calibration.profile import Profile
from .calibration.resolve import effective_scale, resolve
from .engine.answers import Answers
from .engine.config import Config, choice, integer, intents, number
from .engine.context import Condition, Context
from .engine.denoiser import Denoiser, Guided, Network, Requests, foresee
from .engine.guider import Gradient, Guider, Post, Prepare, Sum, Term
from .engine.levels import Level, Readout, Step
from .engine.predictions import Prediction, Query
from .engine.record import Diagnosis, Record
from .engine.reference import (
    NEGATIVE,
    POSITIVE,
    Branch,
    Follow,
    Latents,
    Negative,
    Perturbation,
    Reference,
)
from .engine.scale import Constant, Custom, Gate, PerImage, Scale, ScaleLike
from .engine.state import Rows, State
from .engine.vectors import Number, Numbers, Vector, cosine, dot, norm, project, spread
from .references.linear_ag import Coefficients

ROOMS = ("terms", "references", "scales", "transforms")


def find_methods() -> dict[str, type[Config]]:
    """The public classes that the files of ``ROOMS`` define, by name; bases of several are none."""
    found: dict[str, type[Config]] = {}
    for room in ROOMS:
        for file in _modules(_import(f".{room}", __name__).__path__):
            module = _import(f".{room}.{file.name}", __name__)
            for name, item in vars(module).items():
                method = isinstance(item, type) and issubclass(item, Config)
                hidden = name.startswith("_") or _is_abstract(item)
                if method and item.__module__ == module.__name__ and not hidden:
                    found[name] = item
    return found


METHODS = find_methods()
globals().update(METHODS)
__all__ = [name for name in globals() if not name.startswith("_") and name not in ROOMS]
