"""Adaptive projected guidance."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..engine.config import is_number, number, reject
from ..engine.guider import Term
from ..engine.predictions import Prediction, Query
from ..engine.reference import Negative, Reference
from ..engine.state import Rows
from ..engine.vectors import Number, Numbers, Vector, norm, project

# The paper's radius for SDXL, 15 on latents of 4 x 128 x 128, for each element.
SDXL_RMS = 15 / math.sqrt(4 * 128 * 128)


@dataclass(frozen=True)
class APG(Term):
    """Adaptive projected guidance: less of the part that only raises saturation.

    Sadat, Hilliges & Weber 2024 (arXiv:2410.02416, ICLR 2025), appendix D, algorithm 1, on the
    clean-image predictions of one image, with gap ``D_c - D_u``::

        m  = gap + momentum * m_before                     reverse momentum, kept for the next step
        g  = m * min(1, rescale / |m|)                     rescaling
        x0 = D_c + (scale - 1) * (g_orthogonal + eta * g_parallel)      projection onto D_c

    With ``eta=1, rescale=0, momentum=0`` it is CFG. In a solver of second order the later stages
    of a step read the momentum of the step before and do not change it.

    Attributes:
        scale: 1 is no guidance.
        eta: weight of the part parallel to D_c; the paper's choice is 0.
        rescale: the radius r, the largest norm of the gap; 0 does not rescale. The paper gives 15
            for SDXL and 2.5 for EDM2. Or "p90": the 90th percentile of the gap's norm, momentum
            included, as a profile of the model has it, so that a tenth of the gaps is shortened.
        rescale_rms: the same for each element, ``r / sqrt(numel)``, so that one number fits every
            latent size. The default is the paper's radius for SDXL, 0.0586; give one of the two.
        momentum: beta; the paper's choice for SDXL is -0.5.
    """

    formula: ClassVar[str] = (
        "D_c + (w - 1) (g_orthogonal + eta g_parallel), "
        "g = m min(1, r / |m|), m = D_c - D_u + beta m_before"
    )
    works_on: ClassVar[str] = "x0"
    by_products: ClassVar[bool] = True

    scale: Any = 10.0
    eta: float = number(0.0, low=0)
    rescale: Any = None
    rescale_rms: float | None = number(None, low=0, optional=True)
    momentum: float = number(-0.5, low=-1, high=1, open_ends=True)
    reference: Reference = Negative()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rescale is not None and self.percentile is None:
            if not is_number(self.rescale) or self.rescale < 0:
                allowed = "a number of at least 0, a percentile such as p90, or None"
                raise reject(self, "rescale", self.rescale, allowed)
            self._set("rescale", float(self.rescale))
        if self.rescale is not None and self.rescale_rms is not None:
            there = self.rescale if self.percentile else f"{self.rescale:g}"
            raise reject(self, "rescale_rms", self.rescale_rms, f"None beside rescale (= {there})")
        if self.rescale is None and self.rescale_rms is None:
            self._set("rescale_rms", SDXL_RMS)

    def replace(self, **changes: Any) -> Self:
        """A copy with other settings; either of the two radii takes the place of the other."""
        if "rescale" in changes:
            changes.setdefault("rescale_rms", None)
        elif "rescale_rms" in changes:
            changes.setdefault("rescale", None)
        return super().replace(**changes)

    @property
    def percentile(self) -> float | None:
        """What "p90" says, between 0 and 100; ``None`` where the radius is a number."""
        found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", str(self.rescale).strip().lower())
        return float(found[1]) if found else None

    @property
    def intent(self) -> str:
        return "" if self.percentile is None else f"APG rescale={self.rescale}"

    def radius(self, numel: int) -> float:
        """The largest norm of the gap of an image with ``numel`` elements; 0 is no limit."""
        return (
            self.rescale
            if self.rescale is not None
            else (self.rescale_rms or 0.0) * math.sqrt(numel)
        )

    def delta(
        self, q: Query, positive: Prediction, reference: Prediction, scale: Number, state: Rows
    ) -> Vector:
        gap = positive - reference
        if self.momentum:
            gap = state.set("momentum", gap + self.momentum * state.get("momentum", 0 * gap))
        if radius := self.radius(gap.shape[1:].numel()):
            gap = gap * shrink(gap, radius)
        if self.eta != 1:
            gap = gap - (1 - self.eta) * project(gap, onto=positive.x0)
        return (scale - 1) * gap


def shrink(vector: Vector, radius: float) -> Numbers:
    """``min(1, radius / |vector|)`` for each image; 1 for the zero vector."""
    return (radius / norm(vector)).clamp(high=1.0)
