"""Pipelines that evaluate both halves of classifier-free guidance in one forward.

The denoiser gets [negative, positive] as 2B rows and the pipeline then computes ``u + s * (c - u)``
of the two halves. Returning the guided prediction g in both gives back g itself, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..guidance import POSITIVE, Branch, Prediction, Query, Readout

Forward = Callable[..., Any]


@dataclass
class Evaluation:
    """One call of the denoiser by the pipeline.

    Attributes:
        forward: the denoiser's own ``__call__``.
        args, kwargs: what the pipeline passes it.
        batch: number of images; the tensors have ``batch`` rows, or twice that when ``doubled``.
    """

    forward: Forward
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    doubled: bool
    readout: Readout
    template: Any = None

    @property
    def rows(self) -> int:
        return self.batch * (2 if self.doubled else 1)

    def latents(self) -> Tensor:
        """What the network sees of each image, (batch, ...)."""
        return self.args[0][self.rows - self.batch :]

    def __call__(
        self, q: Query, requests: Mapping[Branch, Sequence[int]]
    ) -> dict[Branch, Prediction]:
        """The ``Network`` of this call: all requests in one forward, and no row beside them."""
        offsets = {Branch("negative"): 0, POSITIVE: self.rows - self.batch}
        order = [branch for branch in offsets if branch in requests]
        chosen = [offsets[branch] + row for branch in order for row in requests[branch]]
        if chosen == list(range(self.rows)):
            args, kwargs = self.args, self.kwargs
        else:
            args, kwargs = choose((self.args, self.kwargs), chosen, self.rows)
        self.template = self.forward(*args, **kwargs)
        output = self.template[0]
        answers, start = {}, 0
        for branch in order:
            part = output[start : start + len(requests[branch])]
            x = q.rows(requests[branch]).x[:, : part.shape[1]]
            answers[branch] = Prediction(x, part, self.readout)
            start += len(requests[branch])
        return answers

    def reply(self, guided: Tensor) -> Any:
        """What the pipeline gets back: ``guided`` (batch, ...) in each half."""
        value = torch.cat([guided, guided]) if self.doubled else guided
        if isinstance(self.template, tuple):
            return (value, *self.template[1:])
        return type(self.template)(value)


def choose(value: Any, rows: Sequence[int], total: int) -> Any:
    """Take ``rows`` of every tensor with ``total`` rows in a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        if value.dim() and len(value) == total:
            return value[torch.as_tensor(rows, device=value.device, dtype=torch.long)]
        return value
    if isinstance(value, dict):
        return {key: choose(item, rows, total) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(choose(item, rows, total) for item in value)
    return value
