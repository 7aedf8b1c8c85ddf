"""What a guider says of each evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .levels import Step
from .predictions import Prediction
from .tensors import put, take
from .vectors import TINY, cosine, dot, norm


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The two predictions D_c and D_u of one evaluation, for each image, whatever the guider used.

    Attributes:
        cosine: of D_c and D_u.
        cosine_eps: of the noise that they imply.
        parallel: the signed share of the gap D_c - D_u that lies along D_c: their cosine.
        gap: the root mean square over elements of D_c - D_u.
        norm_ratio: ``|D_c| / |D_u|``.
        effective_scale: the scale at which CFG would go as far along the gap as the guider did,
            ``<G - D_u, D_c - D_u> / |D_c - D_u|^2`` (arXiv:2602.22570); 1 where it did not guide.
    """

    _values: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(
        cls, step: Step, c: Prediction, u: Prediction, guided: Tensor, unknown: Sequence[int] = ()
    ) -> Diagnosis:
        """Of two predictions and the guided output, all (B, ...); nan for images ``unknown``."""
        c = c.detach()
        u = u.detach().relative_to(c)
        gap, along = c - u, c.x0
        change = Prediction(c.x, guided.detach(), c.readout).relative_to(c)
        length = dot(gap, gap).clamp(low=TINY)
        noise = math.isfinite(step.sigma) and step.level.std > 0
        nothing = length * math.nan
        values = {
            "cosine": cosine(along, u.x0),
            "cosine_eps": cosine(c.eps(step.level), u.eps(step.level)) if noise else nothing,
            "parallel": cosine(gap, along),
            "gap": norm(gap) / math.sqrt(gap.shape[1:].numel()),
            "norm_ratio": norm(along) / norm(u.x0),
            "effective_scale": 1 - dot(c - change, gap) / length,
        }
        rows = list(unknown)
        none = take(nothing.values, rows)
        return cls({name: put(value.values, rows, none) for name, value in values.items()})

    def __repr__(self) -> str:
        """Means over images, of what is known of them."""
        means = {name: float(value.nanmean()) for name, value in self._values.items()}
        return f"Diagnosis({', '.join(f'{k} {v:.4g}' for k, v in means.items())})"

    def __getattr__(self, name: str) -> list[float]:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"Diagnosis has no {name!r}")
        return self._values[name].tolist()


CosinesOfTerm = tuple[int, list[int], Tensor | None]
"""How many images a term has, those of them that it guided, and their cosines if asked for."""


@dataclass
class Record:
    """What happened at one evaluation.

    Attributes:
        index, stage, sigma: where, see ``Step``.
        scales: for each image, the scale of each term of its guider.
        evaluations: for each image, the network evaluations it was given.
        diagnosis: of both predictions, where it was asked for.
    """

    index: int
    stage: int
    sigma: float
    scales: list[tuple[float, ...]]
    evaluations: list[int]
    _cosines: list[list[CosinesOfTerm]] = field(repr=False)  # of each guider's terms
    _guided: list[bool] = field(repr=False)
    diagnosis: Diagnosis | None = None

    @property
    def cosines(self) -> list[tuple[float, ...]]:
        """For each image and each term of its guider, as in ``scales``, the cosine in x0 of the
        positive prediction and the term's reference.

        nan where the term did not act or has no reference, and where nobody asked: a scale that
        looks at it, ``cosines=True`` or ``diagnose=True``.
        """
        found: list[tuple[float, ...]] = []
        for guider in self._cosines:
            by_term = []
            for images, positions, values in guider:
                row = [math.nan] * images
                known = [] if values is None else values.tolist()
                for position, value in zip(positions, known, strict=False):
                    row[position] = value
                by_term.append(row)
            found += zip(*by_term, strict=True)
        return found

    @property
    def skipped(self) -> list[int]:
        """The images that were not guided."""
        return [image for image, guided in enumerate(self._guided) if not guided]
