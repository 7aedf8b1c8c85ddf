"""What happened in one call of a guided pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch

from ...guidance import Guider, Record, Step


@dataclass
class Call:
    """One call of the pipeline.

    Attributes:
        images: number of images; 0 until the first evaluation.
        steps: every evaluation that was planned.
        records: what happened at each evaluation so far.
        latents: the shape of one image's, where the pipeline makes them in a way we see.
    """

    images: int = 0
    steps: list[Step] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    latents: torch.Size | None = None

    @property
    def evaluations(self) -> list[int]:
        """For each image, the network evaluations it was given."""
        counts = [record.evaluations for record in self.records]
        return [sum(column) for column in zip(*counts, strict=True)]

    @property
    def nfe(self) -> float:
        """Network evaluations per image, on average over the images of the call."""
        return sum(self.evaluations) / self.images if self.records else 0.0

    def table(self) -> str:
        """A line for each evaluation: scales, cosines, evaluations."""
        lines = [f"{'step':>4} {'sigma':>8}  {'scale':>18}  {'cosine':>9}  evaluations"]
        unknown = True
        for record in self.records:
            shown = sorted({"+".join(f"{s:g}" for s in scales) for scales in record.scales})
            cosines = [_mean(of_term) for of_term in zip_longest(*record.cosines)]
            unknown &= all(cosine == "-" for cosine in cosines)
            lines.append(
                f"{record.index:>4} {record.sigma:>8.3f}  {', '.join(shown):>18}  "
                f"{' '.join(cosines):>9}  {sum(record.evaluations)} for {len(record.evaluations)}"
            )
        if unknown and any(len(r.skipped) < len(r.evaluations) for r in self.records):
            lines.append("cosines are kept with guided(pipe, guider, cosines=True)")
        return "\n".join(lines)


def title(guiders: Sequence[Guider]) -> str:
    """Guiders in a line."""
    return "; ".join(map(str, guiders))


def _mean(values: Sequence[float | None]) -> str:
    """Of the images that were guided."""
    known = [value for value in values if value is not None and value == value]
    return f"{sum(known) / len(known):.5f}" if known else "-"
