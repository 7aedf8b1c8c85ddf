"""What the pictures of a run depend on, in full, and the batches in which they are drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...guidance import CFG, Constant, Guider, Negative
from ...guidance.engine.config import check_fields, integer
from ...pipelines.generation.settings import Settings
from ...pipelines.machine import THREADS
from ..storage.files import claim
from ..storage.prompts import Prompts


@dataclass(frozen=True)
class Plan:
    """A run: which guider on which model, and which pictures.

    Pictures are drawn in fixed batches, batch b being pictures ``b * batch_size`` and on, and the
    last one is filled up with the pictures that would come next. What is in a batch, and with it
    the rounding of the kernels, then depends neither on how many processes there are, nor on how
    many pictures. On a CPU it depends on the number of threads, which is therefore fixed as well.

    Attributes:
        settings: of every picture; the prompt is "" and the seed that of the first.
        prompts: what ``load_prompts`` takes.
        batch_size: pictures drawn at once, by one process.
        threads: of PyTorch on the CPU, to draw and to measure.
    """

    settings: Settings
    prompts: str = "emoji"
    batch_size: int = integer(32, low=1, high=65536)
    threads: int = integer(THREADS, low=1, high=1024)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def guider(self) -> Guider:
        return Guider.from_dict(self.settings.guider)

    def jobs(self, prompts: Prompts, batch: int) -> list[Settings]:
        """The settings of every picture of a batch, in order."""
        numbers = range(batch * self.batch_size, (batch + 1) * self.batch_size)
        return [
            dataclasses.replace(self.settings, prompt=prompts[n], seed=self.settings.seed + n)
            for n in numbers
        ]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """The inverse of ``to_dict``.

        Raises:
            ValueError: it is not the form of a plan.
        """
        try:
            return cls(**(data | {"settings": Settings(**data["settings"])}))
        except (TypeError, KeyError) as error:
            raise ValueError(f"plan is {data!r}; allowed is that of a manifest ({error})") from None

    def claim(self, folder: Path, digests: dict[str, str]) -> None:
        """Make ``folder`` that of this plan, or see that it is.

        Raises:
            ValueError: it holds the pictures of another plan.
        """
        data = self.to_dict()
        claim(folder, data.pop("settings") | data | digests)


def exact_scale(guider: Guider) -> float | None:
    """The effective scale where it is the scale by definition: plain CFG at one number."""
    plain = len(guider.terms) == 1 and not guider.posts and type(guider.terms[0]) is CFG
    if not plain:
        return None
    term = guider.terms[0]
    if isinstance(term.when, Constant) and term.reference == Negative():
        return float(term.when.scale)
    return None


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}"


def folder_of(out: Path, guider: Guider) -> Path:
    """Where the pictures of a guider lie."""
    text = json.dumps(guider.to_dict(), sort_keys=True)
    slug = re.sub(r"[^a-z0-9.]+", "-", str(guider).lower()).strip("-")[:40]
    return out / "runs" / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
