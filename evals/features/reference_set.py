"""What drawn pictures are compared with: the real ones, as statistics or as pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import models
from ..metrics.frechet import Moments
from ..storage.files import read_picture
from ..storage.hub import is_hub, load_dataset
from ..storage.pictures import Picture
from .extractors import Network, features_of
from .statistics_files import check_npz, read_npz, read_pkl

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Reference:
    """Statistics of real pictures under one network.

    Attributes:
        features: (M, D), where pictures or features are at hand; neighbours and kernels need them.
        source: where they are from.
        digest: SHA-256 of the file, or of the pictures' names and sizes; 16 digits of it.
    """

    moments: Moments
    features: Tensor | None
    source: str
    digest: str

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"source": self.source, "sha256": self.digest, "pictures": self.moments.count}


def load_reference(source: str, network: Network) -> Reference:
    """Read statistics, or compute them from pictures.

    Args:
        source: ``train`` or ``held-out`` (of the emoji data, for the networks that ship), an
            ``.npz`` or ``.pkl`` file, a folder, or ``hub:NAME[:SPLIT[:COLUMN]]``.

    Raises:
        ValueError: it cannot be found or read, or is of another network.
    """
    path = _found(source, network.name)
    if path is None:
        data, column = load_dataset(source, ("image", "img", "picture"))
        pictures = (row[column].convert("RGB") for row in data)
        return _computed(pictures, len(data), network, source, source)
    if path.is_dir():
        files = find_pictures(path)
        mark = "\n".join(f"{file.name} {file.stat().st_size}" for file in files)
        return _computed(map(read_picture, files), len(files), network, source, mark)
    moments, features = (read_npz if path.suffix == ".npz" else read_pkl)(path, network)
    return Reference(moments, features, source, file_digest(path))


def check_reference(source: str, network: str) -> None:
    """Complain of a reference before its network, named so, is loaded, which may take long.

    Raises:
        ValueError: it cannot be found, or holds nothing to compare with.
    """
    path = _found(source, network)
    if path is not None and path.is_dir():
        find_pictures(path)
    elif path is not None and path.suffix == ".npz":
        check_npz(path)


def _found(source: str, network: str) -> Path | None:
    """The file or folder that is meant; ``None`` is a data set of the Hub."""
    path = Path(source)
    if is_hub(source):
        return None
    if source in ("train", "held-out") and not path.exists():
        return models.statistics(network, source)
    if path.is_dir() or (path.suffix in (".npz", ".pkl") and path.is_file()):
        return path
    raise ValueError(
        f"reference is {source!r}; allowed is train or held-out (emoji), an .npz or .pkl file, a "
        "folder of pictures, or hub:NAME"
    )


def find_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and below, by name.

    Raises:
        ValueError: there are fewer than two.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise ValueError(f"{folder} holds {len(files)} pictures; needed are at least 2")
    return files


def _computed(
    pictures: Iterator[Picture], count: int, network: Network, source: str, mark: str
) -> Reference:
    features = torch.cat(list(features_of(pictures, count, network, source)))
    digest = hashlib.sha256(mark.encode()).hexdigest()[:16]
    return Reference(Moments.of(features), features, source, digest)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 16 digits of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
