"""Every figure by name: what it needs, which way is better, and how it is computed.

A *probe* turns a batch of pictures into an array with a row for each, which is kept in a file; a
metric turns the rows of all pictures into a figure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ... import models
from ..features.extractors import Network
from ..metrics import mmd
from ..metrics.colour import clipped, contrast, saturation
from ..metrics.similarity import lpips, psnr, ssim
from ..storage.pictures import Picture, Pictures


@dataclass(frozen=True)
class Metric:
    """How a figure is called, and read.

    Attributes:
        better: ``lower``, ``higher``, or "" where neither is meant.
        family: where its rows come from: ``facts``, ``colour``, ``similarity``, ``score``,
            ``class``, or ``set`` for figures of all pictures together.
        digits: behind the point.
    """

    title: str
    better: str
    family: str
    digits: int = 3
    unit: str = ""


METRICS = {
    "fd": Metric("Frechet distance", "lower", "set", 2),
    "kid": Metric("KID", "lower", "set", 4),
    "cmmd": Metric("CMMD", "lower", "set", 3),
    "precision": Metric("precision", "higher", "set"),
    "recall": Metric("recall", "higher", "set"),
    "density": Metric("density", "higher", "set"),
    "coverage": Metric("coverage", "higher", "set"),
    "clip": Metric("CLIP score", "higher", "score", 2),
    "class": Metric("classification precision", "higher", "class"),
    "saturation": Metric("saturation", "", "colour"),
    "saturation-ink": Metric("saturation without white", "", "colour"),
    "contrast": Metric("contrast", "", "colour"),
    "clipped": Metric("clipped share", "", "colour"),
    "clipped-ink": Metric("clipped share without white", "", "colour"),
    "ssim": Metric("SSIM to the baseline", "higher", "similarity"),
    "psnr": Metric("PSNR to the baseline", "higher", "similarity", 2, "dB"),
    "lpips": Metric("LPIPS to the baseline", "lower", "similarity"),
    "nfe": Metric("evaluations per image", "lower", "facts", 1),
    "seconds": Metric("seconds per image", "lower", "facts", 3, "s"),
    "memory": Metric("peak memory", "lower", "facts", 0, "MB"),
    "effective-scale": Metric("effective scale", "", "facts", 2),
}
ALIASES = {
    "fid": "fd:inception",
    "fd-dinov2": "fd:dinov2",
    "kid-inception": "kid:inception",
    "cmmd-clip": "cmmd:clip-l-336",
    "clip-l": "clip:clip-l",
}
COLOURS: dict[str, Callable[[Pictures], np.ndarray]] = {
    "saturation": saturation,
    "saturation-ink": lambda pictures: saturation(pictures, skip_white=True),
    "contrast": contrast,
    "clipped": clipped,
    "clipped-ink": lambda pictures: clipped(pictures, skip_white=True),
}
SIMILARITIES = {"ssim": ssim, "psnr": psnr, "lpips": lpips}
NEIGHBOURS = ("precision", "recall", "density", "coverage")
KERNELS: dict[str, Callable[..., mmd.Discrepancy]] = {"kid": mmd.kid, "cmmd": mmd.cmmd}


@dataclass(frozen=True)
class Wanted:
    """A metric and its network, as in ``fd:dinov2``."""

    name: str
    network: str = ""

    @property
    def metric(self) -> Metric:
        return METRICS[self.name]

    @property
    def key(self) -> str:
        """As it was asked for."""
        return f"{self.name}:{self.network}" if self.network else self.name

    @property
    def title(self) -> str:
        return f"{self.metric.title} ({self.network})" if self.network else self.metric.title


def parse_metrics(text: str | Sequence[str], model: str) -> list[Wanted]:
    """Read ``fd,saturation,clip:clip-l,nfe``.

    Args:
        text: names of metrics, between commas.
        model: whose networks are the default, see ``models.defaults``.

    Raises:
        ValueError: a name is unknown, or a network is named where none is used.
    """
    items = text.split(",") if isinstance(text, str) else list(text)
    usual = models.defaults("emoji" if model.startswith("emoji") else model)
    found: dict[str, Wanted] = {}
    named = [item.strip() for item in items]
    if not any(named):
        raise ValueError(f"metrics is {text!r}; needed is at least one of {', '.join(METRICS)}")
    for item in named:
        if not item:
            raise ValueError(
                f"metrics is {','.join(items)!r}, with an empty name; allowed are names alone"
            )
        name, _, network = ALIASES.get(item, item).partition(":")
        if name not in METRICS:
            allowed = ", ".join([*METRICS, *ALIASES])
            raise ValueError(f"metrics has {item!r}; allowed is one of {allowed}")
        family = METRICS[name].family
        if network and family not in ("set", "score", "class"):
            raise ValueError(f"metrics has {item!r}; allowed is {name}, which uses no network")
        if family == "class" and not network and not usual.classes:
            raise ValueError(
                f"metrics has {item!r}; allowed is {name}:NETWORK, a classifier of the labels"
            )
        default = {"set": usual.features, "score": usual.scores, "class": usual.classes}
        wanted = Wanted(name, network or default.get(family, ""))
        found[wanted.key] = wanted
    return list(found.values())


@dataclass(frozen=True)
class Probe:
    """Pictures to rows, and the name of the folder in which they are kept."""

    key: str
    rows: Callable[[Pictures, Sequence[int]], np.ndarray]


def colour_probe() -> Probe:
    """(N, 5), the columns of ``COLOURS``."""

    def rows(pictures: Pictures, numbers: Sequence[int]) -> np.ndarray:
        return np.stack([figure(pictures) for figure in COLOURS.values()], axis=1)

    return Probe("colour", rows)


def network_probe(network: Network) -> Probe:
    """(N, D) features."""
    slug = re.sub(r"[^\w.-]+", "-", network.name)[-60:]
    return Probe(
        f"{slug}-{network.digest[:8]}", lambda pictures, numbers: network(pictures).numpy()
    )


def similarity_probe(name: str, other: Callable[[int], Picture], digest: str) -> Probe:
    """(N, 1), to the picture of the same number in a baseline.

    Args:
        digest: of the baseline, which tells one from another.
    """
    figure = SIMILARITIES[name]

    def rows(pictures: Pictures, numbers: Sequence[int]) -> np.ndarray:
        return figure(pictures, [other(number) for number in numbers])[:, None]

    return Probe(f"{name}-{digest[:8]}", rows)


def scores(features: Tensor, network: Network, texts: Sequence[str]) -> np.ndarray:
    """(N,) 100 times the cosine of each picture's features and its text's.

    Raises:
        ValueError: the network reads no text.
    """
    if network.read is None:
        raise ValueError(
            f"metric clip has the network {network.name}; allowed is one that reads text"
        )
    words = list(dict.fromkeys(texts))
    read = normalize(network.read(words).double(), dim=1)
    rows = read[[words.index(text) for text in texts]]
    return 100 * (normalize(features.double(), dim=1) * rows).sum(dim=1).numpy()


def hits(features: Tensor, network: Network, labels: Sequence[str]) -> np.ndarray:
    """(N,) 1 where the likeliest class is the one asked for, nan where none was asked for.

    Raises:
        ValueError: the network is no classifier, or no label is one of its classes.
    """
    known = list(network.labels)
    if not known:
        raise ValueError(
            f"metric class has the network {network.name}; allowed is a classifier with labels"
        )
    wanted = np.array([known.index(label) if label in known else -1 for label in labels])
    if (wanted < 0).all():
        raise ValueError(
            f"metric class: prompts have the labels {sorted(set(labels))[:5]}; allowed are those "
            f"of {network.name}: {', '.join(known[:12])}"
        )
    guess = torch.argmax(features, dim=1).numpy()
    return np.where(wanted < 0, np.nan, guess == wanted)
