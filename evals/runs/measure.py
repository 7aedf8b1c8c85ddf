"""From pictures to figures, in any number of processes, going on where it was killed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...pipelines.machine import THREADS, fixed_threads
from ..features.extractors import Network, check_name, load_network
from ..features.reference_set import Reference, check_reference, load_reference
from ..metrics import estimates
from ..metrics.estimates import Figure
from ..metrics.frechet import Streamed, frechet_distance
from ..metrics.prdc import neighbours
from ..storage.files import read_array, write_array
from ..storage.processes import Processes
from ..storage.prompts import Prompts
from .images import Drawing, Gallery
from .plan import exact_scale
from .registry import (
    COLOURS,
    KERNELS,
    NEIGHBOURS,
    Probe,
    Wanted,
    colour_probe,
    hits,
    network_probe,
    scores,
    similarity_probe,
)

LARGE = 20_000  # above this many pictures features are not kept for a Frechet distance alone
DIAGNOSED = 64  # pictures of which the effective scale is measured


@dataclass
class Judges:
    """What pictures are measured with; loaded once for any number of runs.

    Attributes:
        networks: by name.
        references: by the name of their network; at the first process alone.
    """

    networks: dict[str, Network]
    references: dict[str, Reference]

    @classmethod
    def load(
        cls, wanted: Sequence[Wanted], reference: str, processes: Processes, threads: int = THREADS
    ) -> Judges:
        """Load what the metrics need, and nothing else.

        Args:
            threads: of PyTorch on the CPU, for the features of real pictures.

        Raises:
            ValueError: weights or statistics cannot be had, or do not fit the metrics.
        """
        sets = check_sources(wanted, reference)
        names = dict.fromkeys(one.network for one in wanted if one.network)
        references: dict[str, Reference] = {}
        networks = {name: load_network(name).to(processes.device) for name in names}
        if processes.first:
            for one in sets:
                if one.network not in references:
                    with fixed_threads(threads):
                        found = load_reference(reference, networks[one.network])
                    references[one.network] = found
                if one.name != "fd" and references[one.network].features is None:
                    raise ValueError(
                        f"metrics has {one.key!r}, which needs the features of each real picture; "
                        f"reference {reference!r} has only mu and sigma for {one.network}; allowed "
                        "are pictures"
                    )
        return cls(networks, references)


def check_sources(wanted: Sequence[Wanted], reference: str) -> list[Wanted]:
    """Complain of names and references before anything is loaded; returns what compares with one.

    Raises:
        ValueError: there is no such network, or nothing to compare with.
    """
    for one in wanted:
        if one.network:
            check_name(one.network)
    sets = [one for one in wanted if one.metric.family == "set"]
    if sets and not reference:
        raise ValueError(
            f"reference is missing, and {sets[0].key} compares with one; allowed is an .npz or "
            ".pkl file, a folder of pictures, or hub:NAME"
        )
    for name in dict.fromkeys(one.network for one in sets):
        check_reference(reference, name)
    return sets


def measure(
    source: Drawing | Gallery,
    wanted: Sequence[Wanted],
    judges: Judges,
    out: Path,
    prompts: Prompts | None = None,
    baseline: Gallery | None = None,
    processes: Processes | None = None,
    samples: int | None = None,
    k: int = 3,
    title: str = "pictures",
) -> dict[str, Figure]:
    """Draw what is missing, measure what is not measured, and put it together.

    Args:
        out: keeps the rows of each batch, so that a run that was killed goes on.
        prompts: for scores and classes.
        baseline: for similarities.
        samples: of every bootstrap; ``None`` is 200, and none where a Frechet distance would take
            long.
        k: the neighbour of precision, recall, density and coverage.

    Returns:
        Figures by ``Wanted.key``; at the first process, others get none.

    Raises:
        ValueError: a figure cannot be computed, and why.
        OSError: the disk is full; what was made before is kept.
    """
    processes = processes or Processes()
    probes = _probes(wanted, judges, baseline)
    streamed = _streamed(wanted, source.count)
    rows: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    moments = {name: Streamed() for name in streamed}
    with tqdm(
        total=source.count, desc=title, unit="picture", disable=None if processes.first else True,
        leave=None,  # but within another bar
    ) as bar:  # fmt: skip
        for batch in processes.mine(source.batches):
            count = len(source.numbers(batch))
            for name, array in _measure(source, probes, batch, out).items():
                if name in moments:
                    moments[name].add(array)
                else:
                    rows[name][batch] = array
            if isinstance(source, Drawing):
                rows["facts"][batch] = _facts(source, batch)
            bar.update(min(count * processes.count, source.count - bar.n))
            if source.seconds:
                bar.set_postfix_str(f"{source.evaluated / source.seconds:.0f} evaluations/s")
    if any(one.name == "effective-scale" for one in wanted) and isinstance(source, Drawing):
        rows["effective"] = _effective(source, processes, out)
    gathered = processes.gather((dict(rows), moments))
    if not processes.first:
        return {}
    whole = _join([part for part, _ in gathered])
    for name in moments:
        for _, other in gathered[1:]:
            moments[name].merge(other[name])
    return _figures(source, wanted, judges, whole, moments, prompts, baseline, samples, k)


def _probes(wanted: Sequence[Wanted], judges: Judges, baseline: Gallery | None) -> dict[str, Probe]:
    """By the name under which figures ask for the rows."""
    probes: dict[str, Probe] = {}
    for one in wanted:
        if one.metric.family == "colour":
            probes["colour"] = colour_probe()
        elif one.network:
            probes[one.network] = network_probe(judges.networks[one.network])
        elif one.metric.family == "similarity" and baseline is not None:
            probes[one.name] = similarity_probe(one.name, baseline.picture, baseline.digest)
    return probes


def _streamed(wanted: Sequence[Wanted], count: int) -> set[str]:
    """The networks of which moments are enough."""
    users = defaultdict(set)
    for one in wanted:
        users[one.network].add(one.name)
    return {n for n, names in users.items() if n and names == {"fd"} and count > LARGE}


def _measure(
    source: Drawing | Gallery, probes: Mapping[str, Probe], batch: int, out: Path
) -> dict[str, np.ndarray]:
    """The rows of a batch; its pictures are asked for once, where any are missing."""
    count = len(source.numbers(batch))
    paths = {name: out / "rows" / p.key / f"{batch:05d}.npz" for name, p in probes.items()}
    found = {name: read_array(path, count) for name, path in paths.items()}
    missing = [name for name, array in found.items() if array is None]
    if missing or not source.is_done(batch):
        pictures = source.pictures(batch)
        for name in missing:
            found[name] = array = probes[name].rows(pictures, source.numbers(batch))
            write_array(paths[name], array)
    return {name: array for name, array in found.items() if array is not None}


def _facts(source: Drawing, batch: int) -> np.ndarray:
    """(N, 3): evaluations, seconds, memory."""
    facts, count = source.facts(batch), len(source.numbers(batch))
    rows = [[e, facts["seconds"], facts["memory"]] for e in facts["evaluations"][:count]]
    return np.array(rows, dtype=np.float64)


def _effective(source: Drawing, processes: Processes, out: Path) -> dict[int, np.ndarray]:
    """The effective scale of the first pictures, by batch; their batches are drawn once more."""
    batches = min(source.batches, max(1, DIAGNOSED // source.batch_size))
    scale, found = exact_scale(source.plan.guider), {}
    for batch in processes.mine(batches):
        count = len(source.numbers(batch))
        path = out / "rows" / "effective-scale" / f"{batch:05d}.npz"
        array = np.full(count, scale) if scale is not None else read_array(path, count)
        if array is None:
            array = source.effective_scales(batch)
            write_array(path, array)
        found[batch] = array
    return found


def _join(parts: Sequence[Mapping[str, Mapping[int, np.ndarray]]]) -> dict[str, np.ndarray]:
    """Rows of all processes in the order of the pictures."""
    whole: dict[str, np.ndarray] = {}
    for name in {name for part in parts for name in part}:
        batches = {b: array for part in parts for b, array in part.get(name, {}).items()}
        whole[name] = np.concatenate([batches[b] for b in sorted(batches)])
    return whole


def _figures(
    source: Drawing | Gallery, wanted: Sequence[Wanted], judges: Judges,
    rows: Mapping[str, np.ndarray], moments: Mapping[str, Streamed], prompts: Prompts | None,
    baseline: Any, samples: int | None, k: int,
) -> dict[str, Figure]:  # fmt: skip
    draws = estimates.SAMPLES if samples is None else samples
    numbers, size = range(source.count), source.batch_size
    found: dict[str, Figure] = {}
    near: dict[str, Any] = {}
    for one in wanted:
        name, family = one.name, one.metric.family
        if family == "colour":
            found[one.key] = estimates.mean(rows["colour"][:, list(COLOURS).index(name)], draws)
        elif family == "similarity" and baseline is not None:
            found[one.key] = estimates.mean(rows[name][:, 0], draws)
        elif family == "facts" and name in ("nfe", "seconds", "memory") and "facts" in rows:
            column = rows["facts"][:, ["nfe", "seconds", "memory"].index(name)]
            if name == "nfe":
                found[one.key] = estimates.mean(column, draws)
            elif name == "seconds":
                found[one.key] = estimates.median(column[::size], draws)
            else:
                found[one.key] = Figure(float(column.max()))
        elif name == "effective-scale" and "effective" in rows:
            found[one.key] = estimates.mean(rows["effective"], draws)
        elif family in ("score", "class") and prompts is not None:
            features, network = torch.from_numpy(rows[one.network]), judges.networks[one.network]
            if family == "score":
                values = scores(features, network, [prompts[n] for n in numbers])
            else:
                values = hits(features, network, [prompts.label(n) for n in numbers])
            found[one.key] = estimates.mean(values[~np.isnan(values)], draws)
        elif family == "set":
            reference = judges.references[one.network]
            if one.network in moments:
                moved = frechet_distance(moments[one.network].moments(), reference.moments)
                found[one.key] = Figure(moved)
                continue
            features = torch.from_numpy(rows[one.network])
            if name in NEIGHBOURS and one.network not in near:
                near[one.network] = neighbours(_real(reference), features, k)
            found[one.key] = _of_set(name, features, reference, near.get(one.network), samples)
    return found


def _of_set(
    name: str, features: Tensor, reference: Reference, near: Any, samples: int | None
) -> Figure:
    draws = estimates.SAMPLES if samples is None else samples
    if name == "fd":
        return estimates.distance(features, reference.moments, samples)
    if name in KERNELS:
        found = KERNELS[name](features, _real(reference), samples=draws)
        return Figure(found.value, found.draws, centred=True)
    values = getattr(near, name)
    if name in ("recall", "coverage"):  # one for each real picture, whatever would be drawn again
        return Figure(float(np.mean(np.asarray(values))))
    return estimates.mean(values, draws)


def _real(reference: Reference) -> Tensor:
    if reference.features is None:
        raise ValueError(f"reference {reference.source} has no features of single pictures")
    return reference.features
