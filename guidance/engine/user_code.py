"""Classes and functions of a user's own, by name: ``mine.py:Halved``, ``package.module:Halved``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_FILES: dict[str, str] = {}  # the file of a module that was loaded here, as it was named


def find(name: str) -> Any:
    """Import what ``FILE.py:NAME`` or ``MODULE:NAME`` names. That runs the code of the file.

    A file is looked for from the current folder, and runs once in a process.

    Raises:
        ValueError: there is no such file, module or name, or its code raises an error.
    """
    source, _, attribute = name.rpartition(":")
    try:
        module = _load(source) if source.endswith(".py") else importlib.import_module(source)
        return getattr(module, attribute)
    except Exception as error:  # a file of somebody's own raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"expected FILE.py:NAME or MODULE:NAME that can be imported, got {name!r} ({reason})"
        ) from None


def _load(source: str) -> ModuleType:
    path = Path(source).resolve()
    name = f"guiders_user_file_{path.with_suffix('').as_posix().replace('/', '_')}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module while it runs.
    sys.modules[name], _FILES[name] = module, Path(source).as_posix()
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name], _FILES[name]
        raise
    return module


def name_of(item: Any) -> str:
    """What ``find`` finds a class or a function by; the name alone for those of this library."""
    module = str(item.__module__)
    if module.partition(".")[0] == __name__.partition(".")[0]:
        return str(item.__name__)
    if module == "__main__":
        file = getattr(sys.modules[module], "__file__", None)
        if file is None:  # typed into an interpreter
            return str(item.__name__)
        path, here = Path(file), Path.cwd()
        module = str(path.relative_to(here) if path.is_relative_to(here) else path)
    return f"{_FILES.get(module, module)}:{item.__name__}"
