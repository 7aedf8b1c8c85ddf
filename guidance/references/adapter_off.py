"""The network without its LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.config import reject
from ..engine.reference import Perturbation


@dataclass(frozen=True)
class AdapterOff(Perturbation):
    """The network with its LoRA adapters switched off: ``base + scale (adapted - base)``.

    Between 0 and 1 the scale says how much of the adapters there is in the prediction, above 1 the
    base model is the weak model of autoguidance (Karras et al. 2024, arXiv:2406.02507). Adapters
    of the text encoders stay: the prompt is encoded once.

    Attributes:
        names: the adapters to switch off; ``None`` is all.
    """

    formula: ClassVar[str] = "D_0, without the LoRA"

    names: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (self.names,) if isinstance(self.names, str) else self.names
        if names is not None:
            right = isinstance(names, (tuple, list)) and names
            if not right or not all(isinstance(name, str) and name for name in names):
                raise reject(self, "names", self.names, "a list of names of adapters, or None")
            self._set("names", tuple(names))

    def __str__(self) -> str:
        return "without " + ("adapters" if self.names is None else ", ".join(self.names))
