"""Autoguidance: a worse version of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.config import choice, reject
from ..engine.reference import Branch, Reference, name_of


@dataclass(frozen=True)
class WeakModel(Reference):
    """A worse version of the network at the same condition: ``CFG(2, reference=WeakModel(small))``.

    Autoguidance, Karras et al. 2024 (arXiv:2406.02507), equation 3: ``w D_1 + (1 - w) D_0``, where
    D_0 has the same kind of flaws as D_1, only more of them: fewer parameters, less training. It
    needs no negative branch, so the pipeline's own guidance may be off. Several weak models are a
    sum of terms (the paper's appendix): ``D_m + sum_i (w_i - 1) (D_m - D_i)``.

    Attributes:
        model: a network (or a function) with the call signature of the pipeline's denoiser; or, to
            be stored as JSON, the name of one that ships (``"emoji-weak"``), a folder or a Hub id,
            of the class of the pipeline's denoiser or a relative. A network is asked in its own
            type of numbers, on the pipeline's device.
        prediction_type: of its output, where it differs from the pipeline's.
    """

    formula: ClassVar[str] = "D_0, of a worse network"

    model: Any = None
    prediction_type: str = choice("", "", "epsilon", "v_prediction", "sample", "flow_prediction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if hasattr(self.model, "scheduler"):
            kind = type(self.model).__name__
            raise reject(self, "model", kind, "its network alone, such as pipe.unet")
        if not callable(self.model) and (not isinstance(self.model, str) or not self.model):
            allowed = "a network, or the name of a model, a folder or an id on the Hub"
            raise reject(self, "model", self.model, allowed)

    def branch(self) -> Branch:
        return Branch("positive", self.model, self.prediction_type)

    def to_dict(self) -> Any:
        if isinstance(self.model, str):
            return super().to_dict()
        raise ValueError(
            f"WeakModel: a network ({name_of(self.model)}) is not stored as JSON; give the "
            "name of a model, a folder or an id on the Hub"
        )

    def __str__(self) -> str:
        return f"weak {name_of(self.model)}"
