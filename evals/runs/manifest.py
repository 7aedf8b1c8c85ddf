"""What was asked for and what figures depend on, written beside them to have them again."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...guidance import Guider
from ...guidance.engine.config import as_integer, check_fields, integer, reject
from ...guidance.engine.files import write
from ...pipelines.generation.generate import MOST
from ...pipelines.machine import THREADS
from ..features.extractors import weights_digest
from ..metrics.estimates import Figure
from ..storage.files import read_json, write_json
from ..storage.prompts import Prompts
from .images import Drawing, Gallery
from .measure import Judges
from .plan import Plan, device_name

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FILE, DRAWS = "manifest.json", "draws.npz"
PACKAGES = ("guiders", "torch", "diffusers", "transformers", "numpy", "pillow")


@dataclass(frozen=True)
class Request:
    """An evaluation: pictures to draw or to take, and what to measure.

    Attributes:
        plan: of pictures to draw; ``None`` takes those of the folder ``pictures``.
        count: of pictures; 0 is all of the folder.
        metrics: as ``parse_metrics`` takes them.
        prompts: of the pictures in the folder, in order of their names.
        reference: of real pictures, see ``load_reference``.
        baseline: a folder of pictures with the same seeds, in the same order.
        bootstrap: draws of each interval; ``None`` is 200 where they take seconds.
        neighbours: k of precision, recall, density and coverage.
        keep: store the pictures that are drawn.
        threads: of PyTorch on the CPU, to measure those of the folder; a plan has its own.
    """

    plan: Plan | None = None
    pictures: str = ""
    count: int = 256
    metrics: tuple[str, ...] = ()
    prompts: str = ""
    reference: str = ""
    baseline: str = ""
    bootstrap: int | None = integer(None, low=0, high=MOST, optional=True)
    neighbours: int = integer(3, low=1, high=MOST)
    keep: bool = True
    threads: int = THREADS

    def __post_init__(self) -> None:
        check_fields(self)
        as_integer("", "num_images", self.count, low=0 if self.pictures else 2, high=MOST)
        if (self.plan is None) == (not self.pictures):
            raise reject("", "pictures", self.pictures, "a folder, or a plan to draw")

    @property
    def model(self) -> str:
        """Whose networks are the default."""
        return self.plan.settings.model if self.plan else self.prompts

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Request:
        """The inverse of ``to_dict``.

        Raises:
            ValueError: it is not the form of a request.
        """
        try:
            plan = Plan.from_dict(data["plan"]) if data["plan"] else None
            return cls(**(data | {"plan": plan, "metrics": tuple(data["metrics"])}))
        except (TypeError, KeyError) as error:
            raise ValueError(f"manifest asks for {data!r}; it cannot be read ({error})") from None


def model_facts(pipe: DiffusionPipeline) -> dict[str, Any]:
    """A pipeline's classes, precision and device, and the digest of all its weights."""
    modules = {k: v for k, v in pipe.components.items() if isinstance(v, torch.nn.Module)}
    network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    return {
        "pipeline": type(pipe).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "sha256": weights_digest(modules),
        "scheduler_sha256": _digest(dict(pipe.scheduler.config)),
        "precision": str(getattr(network, "dtype", "")).removeprefix("torch."),
        "device": device_name(pipe.device),
    }


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def files_digest(guider: Guider) -> str:
    """SHA-256 of the files that a guider names, 16 digits of it; "" where it names none."""
    named = [getattr(term.reference, "coefficients", None) for term in guider.terms]
    paths = [Path(name) for name in named if isinstance(name, str) and Path(name).is_file()]
    if not paths:
        return ""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def write_manifest(
    out: Path, request: Request, source: Drawing | Gallery, found: Mapping[str, Figure],
    judges: Judges, prompts: Prompts | None, model: Mapping[str, Any] | None, processes: int,
) -> None:  # fmt: skip
    """Write ``manifest.json`` and, for paired differences, the draws of each figure."""
    seed = request.plan.settings.seed if request.plan else None
    data = {
        "figures": {key: figure.to_dict() for key, figure in found.items()},
        "request": request.to_dict(),
        "pictures": source.count,
        "seeds": None if seed is None else [seed, seed + source.count - 1],
        "prompts": prompts
        and {"source": prompts.source, "sha256": prompts.digest, "count": len(prompts)},
        "model": model and dict(model),
        "networks": [network.describe() for network in judges.networks.values()],
        "references": {name: r.describe() for name, r in judges.references.items()},
        "processes": processes,
        "versions": versions(),
    }
    write_json(out / FILE, data)
    draws: dict[str, Any] = {
        key: figure.draws for key, figure in found.items() if figure.draws is not None
    }
    write(out / DRAWS, lambda file: np.savez_compressed(file, **draws))


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest, of the file or of its folder.

    Raises:
        ValueError: it cannot be read, or is none.
    """
    path = path / FILE if path.is_dir() else path
    data = read_json(path)
    if not isinstance(data, dict) or not {"figures", "request", "versions"} <= set(data):
        raise ValueError(f"{path} is no manifest; allowed is one that guiders evaluate wrote")
    return data


def versions() -> dict[str, str]:
    """Of Python, this library and what its figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found
