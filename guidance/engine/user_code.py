"""Classes and functions of a user's own, by name: ``mine.py:Halved``, ``package.module:Halved``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_FILES: dict[str, str] = {}  # of each module that was loaded here, the file as it was named
_FOUND: set[str] = set()  # what somebody asked for


def find(name: str) -> Any:
    """Import what ``FILE.py:NAME`` or ``MODULE:NAME`` names. That runs the code of the file.

    A file is looked for from the current folder, and runs once in a process.

    Raises:
        ValueError: there is no such file, module or name, or its code raises an error.
    """
    source, _, attribute = name.rpartition(":")
    try:
        module = _load(source) if source.endswith(".py") else importlib.import_module(source)
        item = getattr(module, attribute)
        _FOUND.update((name, name_of(item) if hasattr(item, "__name__") else name))
        return item
    except Exception as error:  # a file of somebody's own raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"expected FILE.py:NAME or MODULE:NAME that can be imported, got {name!r} ({reason})"
        ) from None


def was_found(name: object) -> bool:
    """Did ``find`` find it in this process? Then finding it again runs nothing new."""
    return isinstance(name, str) and name in _FOUND


def _load(source: str) -> ModuleType:
    path = Path(source).resolve()
    for module in list(sys.modules.values()):  # it may have run: the program, or an import of it
        file = str(getattr(module, "__dict__", {}).get("__file__") or "")  # wakes no lazy module
        if file.endswith(path.name) and Path(file).resolve() == path:
            return module
    name = f"guiders_user_file_{path.with_suffix('').as_posix().replace('/', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module while it runs.
    sys.modules[name], _FILES[name] = made, Path(source).as_posix()
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[name], _FILES[name]
        raise
    return made


def name_of(item: Any) -> str:
    """What ``find`` finds a class or a function by; the name alone for those of this library."""
    module, name = str(item.__module__), str(item.__name__)
    if module.partition(".")[0] == __name__.partition(".")[0]:
        return name
    if module in _FILES:
        return f"{_FILES[module]}:{name}"
    file, here = getattr(sys.modules.get(module), "__file__", None), Path.cwd()
    path = Path(file or "")
    if "." not in module and "site-packages" not in path.parts and path.is_relative_to(here):
        return f"{path.relative_to(here).as_posix()}:{name}"  # a script, or a file beside one
    if module == "__main__":
        return f"{file}:{name}" if file else name  # without a file: typed into an interpreter
    return f"{module}:{name}"
