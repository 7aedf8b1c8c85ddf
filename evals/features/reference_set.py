"""What drawn pictures are compared with: the real ones, as statistics or as pictures.

Read are npz files of ADM (``mu``, ``sigma``, and the pictures as ``arr_0``), pytorch-fid and this
library (``mu``, ``sigma``, perhaps ``features``), npz and pkl files of EDM2, folders of pictures,
and data sets of the Hub. A pickle can run anything when it is read; this one is read by a reader
that knows arrays, numbers, text, lists and dictionaries, and nothing else.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ... import models
from ..metrics.frechet import Moments
from ..storage.files import BROKEN, read_picture
from ..storage.hub import is_hub, load_dataset
from .extractors import Network

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
EDM2 = {"inception": "fid", "dinov2": "fd_dinov2"}  # what EDM2 calls them
BATCH = 64


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
    read = _npz if path.suffix == ".npz" else _pkl
    return read(path, source, network)


def check_reference(source: str, network: str) -> None:
    """Complain of a reference before its network, named so, is loaded, which may take long.

    Raises:
        ValueError: it cannot be found, or holds nothing to compare with.
    """
    path = _found(source, network)
    if path is not None and path.is_dir():
        find_pictures(path)
    elif path is not None and path.suffix == ".npz":
        try:
            with np.load(path) as data:
                names = list(data.files)
        except (*BROKEN, TypeError, AttributeError) as error:
            raise ValueError(f"reference {path} cannot be read ({error})") from None
        if not {"mu", "sigma"} <= set(names) and not {"features", "arr_0"} & set(names):
            raise _lacking(path, names)


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


def _lacking(path: Path, names: Sequence[str]) -> ValueError:
    return ValueError(
        f"reference {path} holds {', '.join(names) or 'nothing'}; needed are mu and sigma, or "
        "pictures as arr_0, (N, H, W, 3) uint8, which np.savez(path, pictures) writes"
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
    pictures: Iterator[Any], count: int, network: Network, source: str, mark: str
) -> Reference:
    features = torch.cat(list(features_of(pictures, count, network, source)))
    digest = hashlib.sha256(mark.encode()).hexdigest()[:16]
    return Reference(Moments.of(features), features, source, digest)


def features_of(
    pictures: Iterator[Any], count: int, network: Network, title: str
) -> Iterator[Tensor]:
    """Features of pictures, batch by batch."""
    batch: list[Any] = []
    with tqdm(total=count, desc=f"{network.name}: {title}", unit="picture", disable=None) as bar:
        for picture in pictures:
            if len(batch) == BATCH:
                yield network(batch)
                bar.update(len(batch))
                batch = []
            batch.append(picture)
        if batch:
            yield network(batch)
            bar.update(len(batch))


def _npz(path: Path, source: str, network: Network) -> Reference:
    digest = file_digest(path)
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
        pictures: Sequence[Any] = list(rows)
        features = torch.cat(list(features_of(iter(pictures), len(rows), network, path.name)))
        return Reference(Moments.of(features), features, source, digest)
    if "mu" in arrays and "sigma" in arrays:
        count = int(arrays["count"]) if "count" in arrays else 0
        moments = Moments.checked(arrays["mu"], arrays["sigma"], count, str(path))
    elif features is not None:
        moments = Moments.of(features)
    else:
        raise _lacking(path, np.load(path).files)
    _check_width(moments, network, path)
    return Reference(moments, features, source, digest)


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


class _Dtype:
    """The word of a dtype: numpy's own is never made of what a file says."""

    def __init__(self, word: object, *_: object) -> None:
        self.word, self.order = str(word), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1]) if str(state[1]) in "<>" else "<"

    @property
    def plain(self) -> np.dtype:
        word = self.word.lstrip("<>=|")
        if word not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
            raise pickle.UnpicklingError(f"it has an array of {self.word}; allowed are numbers")
        return np.dtype(self.order + word)


class _Array:
    """An array of numbers, made of its bytes alone."""

    def __init__(self, *_: object) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        self.value = _numbers(data, dtype, shape, "F" if by_columns else "C")


def _numbers(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError("it has an array that is not of bytes and a dtype")
    sizes = tuple(int(size) for size in shape)
    flat = np.frombuffer(bytes(data), dtype.plain)
    return flat.reshape(sizes, order="F" if order == "F" else "C").copy()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_: object) -> _Array:
    made = _Array()
    made.value = _numbers(data, dtype, shape, order)
    return made


def _scalar(dtype: Any, data: Any) -> float:
    return float(_numbers(data, dtype, ())[()])


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    return str(text).encode(str(encoding))


class _Reader(pickle.Unpickler):
    """A reader of arrays and plain values that calls nothing else than the stand-ins above."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("numpy._core.numeric", "_frombuffer"): _frombuffer,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _latin,
    }

    def find_class(self, module: str, name: str) -> Any:
        place = module.replace("numpy.core", "numpy._core")
        if (place, name) in self.known:
            return self.known[place, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}; allowed are arrays and numbers")


def _opened(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _pkl(path: Path, source: str, network: Network) -> Reference:
    try:
        with open(path, "rb") as file:
            data = _Reader(file).load()
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"reference {path} cannot be read ({error})") from None
    key = EDM2.get(network.name, network.name)
    part = data
    if isinstance(data, dict) and "mu" not in data:
        part = data.get(key)
    if not isinstance(part, dict) or not {"mu", "sigma"} <= set(part):
        held = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"reference {path} holds {held}; needed is {key} with mu and sigma")
    mu, sigma = _opened(part["mu"]), _opened(part["sigma"])
    moments = Moments.checked(mu, sigma, 0, str(path))
    _check_width(moments, network, path)
    return Reference(moments, None, source, file_digest(path))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 16 digits of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
