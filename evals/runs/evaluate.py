"""A request becomes figures with a manifest beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...guidance.engine.files import sweep
from ...pipelines.machine import fixed_threads
from ..metrics.estimates import Figure
from ..storage.files import claim
from ..storage.processes import Processes
from ..storage.prompts import Prompts, load_prompts
from .images import Drawing, Gallery
from .manifest import Request, files_digest, model_facts, write_manifest
from .measure import Judges, measure
from .registry import NEIGHBOURS, Wanted, hits, parse_metrics, scores

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def evaluate(
    request: Request,
    out: str | Path,
    load: Callable[[], DiffusionPipeline] | None = None,
    processes: Processes | None = None,
    *,
    judges: Judges | None = None,
    model: Mapping[str, Any] | None = None,
    title: str = "",
) -> dict[str, Figure]:
    """Draw what is missing in ``out``, measure it, and write ``out/manifest.json``.

    Call it again with the same request after a kill; nothing that was made is made twice. Under
    ``torchrun`` or ``accelerate launch`` every process calls it.

    Args:
        load: makes the pipeline, once; needed where there is a plan.
        judges: networks and references, where they are loaded already.
        model: what ``model_facts`` says of the pipeline, where that is known already.
        title: of the progress bar.

    Returns:
        Figures by the name of their metric; at the first process, others get none.

    Raises:
        ValueError: something is not allowed, cannot be read, or the folder is another run's.
        OSError: the disk is full; what was made before is kept.
    """
    out, processes = Path(out), processes or Processes()
    wanted = parse_metrics(request.metrics, request.model)
    prompts = prompts_of(request)
    check_request(request, wanted, prompts)
    threads = request.plan.threads if request.plan else request.threads
    judges = judges or Judges.load(wanted, request.reference, processes, threads)
    check_networks(wanted, judges, prompts)
    source: Drawing | Gallery
    if request.plan is not None and load is not None:
        model = model or model_facts(load())
        assert prompts is not None
        if processes.first:
            sweep(out)
            digests = {
                "prompts_sha256": prompts.digest,
                "model_sha256": model["sha256"],
                "scheduler_sha256": model["scheduler_sha256"],
                "files_sha256": files_digest(request.plan.guider),
            }
            request.plan.claim(out, digests)
        processes.wait()
        source = Drawing(request.plan, prompts, request.count, out, load, request.keep)
    else:
        source = Gallery(Path(request.pictures), request.count, threads=threads)
        if processes.first:
            facts = {"pictures": request.pictures, "pictures_sha256": source.digest}
            claim(out, facts | {"threads": threads})
        processes.wait()
    baseline = None
    if request.baseline:
        baseline = Gallery(pictures_in(request.baseline), source.count)
    with fixed_threads(threads):  # networks round as drawing does
        found = measure(
            source, wanted, judges, out, prompts, baseline, processes, request.bootstrap,
            request.neighbours, title or out.name,
        )  # fmt: skip
    if processes.first:
        write_manifest(out, request, source, found, judges, prompts, model, processes.count)
    processes.wait()
    return found


def prompts_of(request: Request) -> Prompts | None:
    """The prompts of the pictures, where there are any."""
    source = request.plan.prompts if request.plan else request.prompts
    return load_prompts(source) if source else None


def pictures_in(folder: str) -> Path:
    """A folder of pictures: that of an evaluation, or as it is."""
    inner = Path(folder) / "pictures"
    return inner if inner.is_dir() else Path(folder)


def check_request(request: Request, wanted: Sequence[Wanted], prompts: Prompts | None) -> None:
    """Complain before anything is drawn."""
    for one in wanted:
        family = one.metric.family
        if family == "facts" and not request.plan:
            raise ValueError(f"metrics has {one.key!r}; allowed where pictures are drawn")
        if family in ("score", "class") and prompts is None:
            raise ValueError(f"metrics has {one.key!r}; allowed with the prompts of the pictures")
        if one.name in NEIGHBOURS and 0 < request.count <= request.neighbours:
            raise ValueError(
                f"neighbours is {request.neighbours}, for {request.count} pictures; allowed is "
                "less than there are"
            )
        if family == "similarity" and not request.baseline:
            raise ValueError(f"metrics has {one.key!r}; allowed with a baseline of the same seeds")
        if family == "similarity" and request.plan and not request.keep:
            raise ValueError(f"metrics has {one.key!r}; allowed where pictures are kept")


def check_networks(wanted: Sequence[Wanted], judges: Judges, prompts: Prompts | None) -> None:
    """Can the networks of scores and classes say what they are asked?"""
    for one in wanted:
        if prompts is None or one.metric.family not in ("score", "class"):
            continue
        network, nothing = judges.networks[one.network], torch.zeros(1, 1)
        if one.metric.family == "class":
            hits(nothing.expand(len(prompts), 1), network, prompts.labels)
        elif network.read is None:
            scores(nothing, network, prompts.texts[:1])
