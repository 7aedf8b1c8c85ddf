"""Statistics of real pictures in others' files: npz of ADM, pytorch-fid and EDM2, and its pkl.

Read are ``mu`` and ``sigma``, ``features``, and ADM's pictures as ``arr_0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..metrics.frechet import Moments
from ..storage.files import BROKEN
from ..storage.pictures import Pictures
from . import pickled_arrays
from .extractors import Network, features_of

EDM2 = {"inception": "fid", "dinov2": "fd_dinov2"}  # what EDM2 calls them
Statistics = tuple[Moments, Tensor | None]
"""Moments of the features, and the features (M, D) themselves where they are at hand."""


def check_npz(path: Path) -> None:
    """Complain of an npz without reading its arrays.

    Raises:
        ValueError: it cannot be read, or holds nothing to compare with.
    """
    try:
        with np.load(path) as data:
            names = list(data.files)
    except (*BROKEN, TypeError, AttributeError) as error:
        raise ValueError(f"reference {path} cannot be read ({error})") from None
    if not {"mu", "sigma"} <= set(names) and not {"features", "arr_0"} & set(names):
        raise lacking(path, names)


def read_npz(path: Path, network: Network) -> Statistics:
    """An npz of ADM, pytorch-fid, EDM2 or this library.

    Raises:
        ValueError: it cannot be read, holds nothing to compare with, or is of another network.
    """
    try:
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files if name in _kept(data.files)}
    except (*BROKEN, TypeError) as error:
        raise ValueError(f"reference {path} cannot be read ({error})") from None
    for name, value in arrays.items():
        if value.dtype.kind not in "fiu" or (name == "count" and value.size != 1):
            raise ValueError(
                f"reference {path} has {name} of type {value.dtype} and shape {value.shape}; "
                "allowed are numbers, and one count"
            )
    features: Tensor | None = None
    if "features" in arrays:
        features = torch.from_numpy(np.asarray(arrays["features"])).float()
    if "arr_0" in arrays and not _fits(arrays, network):
        rows = arrays["arr_0"]
        if rows.ndim != 4 or rows.shape[3] != 3 or rows.dtype != np.uint8 or len(rows) < 2:
            raise ValueError(
                f"reference {path} has arr_0 of shape {rows.shape} and type {rows.dtype}; allowed "
                "is (N, H, W, 3) uint8"
            )
        pictures: Pictures = list(rows)
        features = torch.cat(list(features_of(iter(pictures), len(rows), network, path.name)))
        return Moments.of(features), features
    if "mu" in arrays and "sigma" in arrays:
        count = int(arrays["count"]) if "count" in arrays else 0
        moments = Moments.checked(arrays["mu"], arrays["sigma"], count, str(path))
    elif features is not None:
        moments = Moments.of(features)
    else:
        raise lacking(path, np.load(path).files)
    _check_width(moments, network, path)
    return moments, features


def _check_width(moments: Moments, network: Network, path: Path) -> None:
    """Are statistics as wide as what the network gives?"""
    if network.size is None:  # only its pictures can tell
        return
    there = len(moments.mean)
    gives = network([np.zeros((network.size, network.size, 3), np.uint8)]).shape[1]
    if there != gives:
        raise ValueError(
            f"reference {path} has {there} features for each picture, and network {network.name} "
            f"gives {gives}; allowed is a reference of that network, or pictures"
        )


def _kept(names: Sequence[str]) -> set[str]:
    """ADM's spatial statistics are not used."""
    return {"mu", "sigma", "count", "features", "arr_0"} & set(names)


def _fits(arrays: dict[str, np.ndarray], network: Network) -> bool:
    """Are the statistics beside pictures of this network? ADM's are Inception's."""
    return "mu" in arrays and network.name == "inception"


def read_pkl(path: Path, network: Network) -> Statistics:
    """A pkl of EDM2.

    Raises:
        ValueError: it cannot be read, or is of another network.
    """
    data = pickled_arrays.read(path)
    key = EDM2.get(network.name, network.name)
    part = data
    if isinstance(data, dict) and "mu" not in data:
        part = data.get(key)
    if not isinstance(part, dict) or not {"mu", "sigma"} <= set(part):
        held = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"reference {path} holds {held}; needed is {key} with mu and sigma")
    moments = Moments.checked(part["mu"], part["sigma"], 0, str(path))
    _check_width(moments, network, path)
    return moments, None


def lacking(path: Path, names: Sequence[str]) -> ValueError:
    """The complaint of a file without statistics and pictures."""
    return ValueError(
        f"reference {path} holds {', '.join(names) or 'nothing'}; needed are mu and sigma, or "
        "pictures as arr_0, (N, H, W, 3) uint8, which np.savez(path, pictures) writes"
    )
