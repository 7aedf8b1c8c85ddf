"""Pictures of a run, batch by batch: drawn where they are not there yet, whoever asks."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ...guidance import Guider
from ...pipelines import guided
from ...pipelines.generation import png
from ...pipelines.generation.generate import sample
from ...pipelines.language.parse import parse_skip
from ...pipelines.machine import THREADS, fixed_threads
from ..features.reference_set import find_pictures
from ..storage.files import is_whole, read_json, read_picture, write_json
from ..storage.prompts import Prompts
from .plan import Plan

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Drawing:
    """The pictures of a plan, ``folder/pictures/000000.png`` and on.

    A picture is there if its file is whole; a batch that lacks one is drawn again, bit for bit, and
    only what lacks is written. Beside them, ``facts/00000.json`` has what each batch took.

    Args:
        load: makes the pipeline, when there is something to draw.
        keep: store pictures; else they are drawn again whenever they are asked for.
    """

    def __init__(
        self, plan: Plan, prompts: Prompts, count: int, folder: Path,
        load: Callable[[], DiffusionPipeline], keep: bool = True,
    ) -> None:  # fmt: skip
        self.plan, self.prompts, self.count, self.folder = plan, prompts, count, folder
        self.batch_size, self.batches = plan.batch_size, math.ceil(count / plan.batch_size)
        self.threads = plan.threads
        self.keep, self.drawn, self.evaluated, self.seconds = keep, 0, 0, 0.0
        self._load = load
        self._guider = plan.guider

    def numbers(self, batch: int) -> range:
        """The pictures of a batch, without those that only fill it up."""
        return range(batch * self.batch_size, min(self.count, (batch + 1) * self.batch_size))

    def path(self, number: int) -> Path:
        return self.folder / "pictures" / f"{number:06d}.png"

    def is_done(self, batch: int) -> bool:
        """Is all of a batch stored that is to be stored?"""
        if not self._facts(batch).exists():
            return False
        return not self.keep or all(is_whole(self.path(n)) for n in self.numbers(batch))

    def pictures(self, batch: int) -> list[Image.Image]:
        """A batch, drawn if need be."""
        if self.keep and self.is_done(batch):
            return [read_picture(self.path(n)) for n in self.numbers(batch)]
        return self._draw(batch)

    def picture(self, number: int) -> Image.Image:
        """One that is stored."""
        return read_picture(self.path(number))

    def facts(self, batch: int) -> dict[str, Any]:
        """Evaluations of each picture, those that fill the batch up included; seconds for one
        picture; peak memory in MB."""
        return read_json(self._facts(batch))

    def effective_scales(self, batch: int) -> np.ndarray:
        """(N,) effective scale of each picture, the mean over steps; the batch is drawn again."""
        pipe = self._pipe()
        jobs = self.plan.jobs(self.prompts, batch)
        with fixed_threads(self.threads), guided(
            pipe, self._guider, quiet=True, diagnose=True, skip=self._skip
        ) as run:  # fmt: skip
            sample(pipe, jobs)
        rows = [r.diagnosis.effective_scale for r in run.last.records if r.diagnosis is not None]
        # Steps that were left out say nothing.
        return np.nanmean(rows, axis=0)[: len(self.numbers(batch))]

    @property
    def _skip(self) -> Any:
        return parse_skip(self.plan.settings.skip)

    def _facts(self, batch: int) -> Path:
        return self.folder / "facts" / f"{batch:05d}.json"

    def _pipe(self) -> DiffusionPipeline:
        pipe = self._load()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _draw(self, batch: int) -> list[Image.Image]:
        pipe, jobs = self._pipe(), self.plan.jobs(self.prompts, batch)
        forget_peak(pipe.device)
        started = time.perf_counter()
        with fixed_threads(self.threads), guided(
            pipe, self._guider, quiet=True, skip=self._skip
        ) as run:  # fmt: skip
            images = [image.convert("RGB") for image in sample(pipe, jobs)]
        seconds = time.perf_counter() - started
        evaluations = run.last.evaluations
        self.drawn += len(jobs)
        self.evaluated += sum(evaluations)
        self.seconds += seconds
        numbers = self.numbers(batch)
        if self.keep:
            for number, job, image in zip(numbers, jobs, images, strict=False):
                if not is_whole(self.path(number)):
                    self._store(number, job, image, type(pipe.scheduler).__name__)
        facts = {
            "evaluations": evaluations,
            "seconds": seconds / len(jobs),
            "memory": peak_memory(pipe.device),
        }
        write_json(self._facts(batch), facts)
        return images[: len(numbers)]

    def _store(self, number: int, job: Any, image: Image.Image, sampler: str) -> None:
        settings = dataclasses.asdict(job) | {"width": image.width, "height": image.height}
        text = png.info(settings, str(Guider.from_dict(job.guider)), sampler)
        png.save(self.path(number), image, text)


class Gallery:
    """Pictures that somebody else has drawn: all those in a folder, by name.

    Args:
        threads: of PyTorch on the CPU, to measure.

    Attributes:
        digest: SHA-256 of their names and contents, 16 digits of it.
    """

    keep = True

    def __init__(
        self, folder: Path, count: int = 0, batch_size: int = 32, threads: int = THREADS
    ) -> None:
        files = find_pictures(folder)
        if count > len(files):
            raise ValueError(f"{folder} holds {len(files)} pictures; needed are {count}")
        self._files = files[: count or len(files)]
        whole = hashlib.sha256()
        for path in self._files:
            whole.update(f"{path.relative_to(folder)}\n".encode())
            whole.update(hashlib.sha256(path.read_bytes()).digest())
        self.digest = whole.hexdigest()[:16]
        self.count, self.batch_size, self.threads = len(self._files), batch_size, threads
        self.batches = math.ceil(self.count / batch_size)
        self.folder, self.drawn, self.evaluated, self.seconds = folder, 0, 0, 0.0

    def numbers(self, batch: int) -> range:
        return range(batch * self.batch_size, min(self.count, (batch + 1) * self.batch_size))

    def path(self, number: int) -> Path:
        return self._files[number]

    def is_done(self, batch: int) -> bool:
        return True

    def picture(self, number: int) -> Image.Image:
        return read_picture(self.path(number))

    def pictures(self, batch: int) -> list[Image.Image]:
        return [read_picture(self.path(n)) for n in self.numbers(batch)]


def forget_peak(device: torch.device) -> None:
    """From here on ``peak_memory`` is of what comes; on Linux and GPUs, elsewhere of all."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """The most memory taken since, in MB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
