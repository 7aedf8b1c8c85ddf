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

from ..guidance import Branch, Prediction, Query, Readout

Forward = Callable[..., Any]


@dataclass
class Evaluation:
    """One call of the denoiser by the pipeline.

    Attributes:
        forward: the denoiser's own ``__call__``.
        args, kwargs: what the pipeline passes it.
        batch: number of images; the tensors have ``batch`` rows, or twice that when ``doubled``.
        readout: how an output of a prediction type is read; "" is the pipeline's.
    """

    forward: Forward
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int
    doubled: bool
    readout: Callable[[str], Readout]
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
        """The ``Network`` of this call: one forward for each network, of the rows asked for."""
        first_row = {"negative": 0, "positive": self.rows - self.batch}
        answers: dict[Branch, Prediction] = {}
        for model in dict.fromkeys(branch.model for branch in requests):
            branches = [branch for branch in requests if branch.model is model]
            branches.sort(key=lambda branch: first_row[branch.condition])
            chosen = [first_row[b.condition] + row for b in branches for row in requests[b]]
            args, kwargs = self.args, self.kwargs
            if chosen != list(range(self.rows)):
                args, kwargs = choose((args, kwargs), chosen, self.rows)
            result = (model or self.forward)(*args, **kwargs)
            if model is None:
                self.template = result
            start = 0
            for branch in branches:
                output = result[0][start : start + len(requests[branch])]
                if output.shape[1] > q.x.shape[1]:
                    raise ValueError(
                        f"the denoiser returns {output.shape[1]} channels for {q.x.shape[1]}; "
                        "allowed is a network without learned variance"
                    )
                x = q.rows(requests[branch]).x[:, : output.shape[1]]
                answers[branch] = Prediction(x, output, self.readout(branch.prediction_type))
                start += len(output)
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
