"""As strong as another guider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.config import is_number, reject
from ..engine.guider import Guider
from ..engine.scale import Scale
from ..terms.cfg import CFG


@dataclass(frozen=True)
class Match(Scale):
    """The scale at which a method is as strong as another guider: ``APG(Match(CFG(7.5)))``.

    As strong is: of the same effective scale, ``<G - D_u, D_c - D_u> / |D_c - D_u|^2`` averaged
    over evaluations and prompts (arXiv:2602.22570), which is CFG's own scale for CFG. Which number
    that is follows from a profile of the model (``guiders profile``) before the run.

    Attributes:
        guider: a sum of ``CFG`` and ``APG``, or a number, which is CFG at that.
    """

    formula: ClassVar[str] = "w at which the mean effective scale is that of the guider"

    guider: Any = 7.5

    def __post_init__(self) -> None:
        super().__post_init__()
        given = CFG(self.guider) if is_number(self.guider) else self.guider
        if not isinstance(given, Guider):
            raise reject(self, "guider", given, "a Guider such as CFG(7.5), or its scale")
        self._set("guider", given)

    @property
    def intent(self) -> str:
        return f"Match to {self.guider}"

    def __str__(self) -> str:
        return f"as strong as {self.guider}"
