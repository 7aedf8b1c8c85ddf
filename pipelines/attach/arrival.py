"""Is it the guided prediction that reaches the scheduler?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...guidance.engine.finite import row_sums
from .infer_layout import error, tolerance

EVERY = 8  # a sample is an eighth of the elements


class Arrivals:
    """Compares what a pipeline steps its scheduler with, evaluation after evaluation.

    The first evaluation of each kind, guided and not, is compared in full and at once, and the last
    one in full. In between it is a sample, another one each time, so that every element is looked
    at within eight evaluations, and the sum of each row, which is off where any of it is changed.
    What they say is read when the run ends: reading makes the host wait for the device.

    Args:
        name: of the pipeline's class, for messages.
        dtype: of the predictions.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self._name, self._allowed = name, tolerance(dtype)
        self._kinds: set[bool] = set()
        self._count = 0
        self._gaps: list[Tensor] = []  # |arrived - sent| of the whole or the sample, and |sent|
        self._sums: list[Tensor] = []  # of each row: what arrived, what was sent

    def compare(
        self, arrived: Tensor, sent: Tensor, sums: Tensor | None, guided: bool, last: bool
    ) -> None:
        """Compare one evaluation's prediction.

        Args:
            arrived: what the scheduler is given, (B, ...).
            sent: the guided prediction, (B, ...).
            sums: of its rows, (B,), where they are known.
            guided: is there a second prediction in it?
            last: is it the last evaluation of the run?

        Raises:
            RuntimeError: they are not the same, as far as that is known already.
        """
        self._count += 1
        if arrived.shape != sent.shape or guided not in self._kinds:
            self._kinds.add(guided)
            self._judge(float(error(arrived, sent)))
            return
        if not last:
            sums = row_sums(sent) if sums is None else sums
            self._sums.append(torch.stack([row_sums(arrived), sums]))
            arrived, sent = (self._sample(tensor) for tensor in (arrived, sent))
        arrived, sent = arrived.detach().float(), sent.detach().float()
        self._gaps.append(torch.stack([(arrived - sent).norm(), sent.norm()]))

    def finish(self) -> None:
        """Read what was not read yet; the run is over.

        Raises:
            RuntimeError: what arrived was not what was sent.
        """
        if not self._gaps:
            return
        gap, size = torch.stack(self._gaps).double().unbind(1)
        found = [(gap / size.clamp_min(1e-30)).max()]
        if self._sums:
            arrived, sent = torch.stack(self._sums).double().unbind(1)  # (evaluations, B)
            # What rounding moves a sum by grows with the norm, of which the sample has an eighth.
            whole = math.sqrt(EVERY) * size[: len(arrived), None]
            found.append(((arrived - sent).abs() / (sent.abs() + whole).clamp_min(1e-30)).max())
        self._gaps, self._sums = [], []
        worst = torch.stack(found).max()
        self._judge(float(worst))

    def _sample(self, tensor: Tensor) -> Tensor:
        """Every eighth slice along the longest dimension, as a view; another at each evaluation."""
        dim = max(range(1, tensor.dim()), key=lambda d: (tensor.shape[d], d))
        period = min(EVERY, tensor.shape[dim])
        index = [slice(None)] * tensor.dim()
        index[dim] = slice(self._count % period, None, period)
        return tensor[tuple(index)]

    def _judge(self, found: float) -> None:
        if found <= self._allowed:
            return
        how = "has another shape" if math.isinf(found) else f"differs by {found:.1e}"
        raise RuntimeError(
            f"{self._name} changes the guided prediction before it reaches the scheduler (it "
            f"{how}); this pipeline cannot be guided"
        )
