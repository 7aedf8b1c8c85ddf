"""Weights of rewards: from a folder, or from the Hub on first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def pretrained(kind: Callable[..., Any], source: str, what: str) -> Any:
    """``kind(source)``, a ``from_pretrained``, with a complaint that says where to put the weights.

    Raises:
        ValueError: they are neither in a folder nor in the Hub's cache, and cannot be fetched.
    """
    try:
        return kind(source)
    except (OSError, ValueError) as error:
        raise _missing(what, source, f"{what}(model=FOLDER)", error) from None


def file(source: str, name: str, what: str) -> Path:
    """The file ``name`` of a folder or a repository on the Hub.

    Raises:
        ValueError: it is not there and cannot be fetched.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir() and (path / name).is_file():
        return path / name
    from huggingface_hub import hf_hub_download

    try:
        if path.is_dir():
            raise FileNotFoundError(f"{path} has no {name}")
        return Path(hf_hub_download(source, name))
    except Exception as error:  # of the network, of many kinds
        raise _missing(what, source, f"{what} with a folder that has {name}", error) from None


def _missing(what: str, source: str, allowed: str, error: Exception) -> ValueError:
    reason = str(error).strip().splitlines()[0][:200]
    return ValueError(
        f"reward {what} needs {source}, which is neither here nor could be fetched; download it "
        f"where there is a network (`hf download {source}`, then copy the folder) and use "
        f"{allowed} ({reason})"
    )
