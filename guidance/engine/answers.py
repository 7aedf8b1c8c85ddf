"""What the network said at one evaluation, by branch and image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .levels import Readout
from .predictions import Prediction, Query
from .reference import Branch
from .tensors import put


class Answers:
    """Predictions by branch; each may have come in several parts.

    Attributes:
        unasked: the images for which a branch was evaluated though nobody had asked yet.
        again: images that were given one more evaluation each.
    """

    def __init__(self) -> None:
        self._images: dict[Branch, list[int]] = {}
        self._predictions: dict[Branch, Prediction] = {}
        self._parts: dict[tuple[Branch, tuple[int, ...]], Prediction] = {}
        self.unasked: dict[Branch, list[int]] = {}
        self.again: list[int] = []

    def add(
        self, requests: Mapping[Branch, Sequence[int]], said: Mapping[Branch, Prediction]
    ) -> None:
        """Add predictions, each of the images that its branch was asked for."""
        for branch, prediction in said.items():
            images = list(requests[branch])
            before = self._predictions.get(branch)
            if before is not None:
                images = self._images[branch] + images
                prediction = Prediction(
                    torch.cat([before.x, prediction.x]),
                    torch.cat([before.output, prediction.output]),
                    before.readout,
                    {
                        name: torch.cat([v, prediction.inner[name]])
                        for name, v in before.inner.items()
                        if name in prediction.inner
                    },
                )
            self._images[branch], self._predictions[branch] = images, prediction
            self._parts = {}

    @property
    def asked(self) -> list[Branch]:
        """The branches that were answered."""
        return list(self._predictions)

    def images(self, branch: Branch) -> list[int]:
        """The images for which a branch was answered."""
        return self._images.get(branch, [])

    def raw(self, branch: Branch) -> Tensor:
        """The network's output for a branch, in the order of ``images``."""
        return self._predictions[branch].output

    def of(self, branch: Branch, images: Sequence[int]) -> Prediction:
        """A branch's prediction of some images, which must have been asked for."""
        there, key = self._images[branch], (branch, tuple(images))
        if there == list(images):
            return self._predictions[branch]
        if key not in self._parts:
            place = {image: row for row, image in enumerate(there)}
            rows = [place[image] for image in images]
            self._parts[key] = self._predictions[branch].rows(rows)
        return self._parts[key]

    def all(self, branch: Branch, batch: int, q: Query) -> Prediction:
        """A branch's prediction of the whole batch; its output is 0 where it was not asked for."""
        if branch not in self._predictions:
            return Prediction(q.x, torch.zeros_like(q.x), Readout(1.0, 0.0))
        there, said = self._images[branch], self._predictions[branch]
        if there == list(range(batch)):
            return said
        output = said.output.new_zeros((batch, *said.output.shape[1:]))
        return Prediction(q.x, put(output, there, said.output), said.readout)

    def assemble(
        self, positive: Prediction, parts: Mapping[Branch, Sequence[tuple[int, int]]]
    ) -> Prediction:
        """One prediction of the rows of ``positive`` from several branches.

        Args:
            parts: for each branch its rows within the result and their images; the other rows keep
                the positive prediction.
        """
        if len(parts) == 1:
            ((branch, pairs),) = parts.items()
            if [row for row, _ in pairs] == list(range(len(positive.output))):
                return self.of(branch, [image for _, image in pairs])
        output = positive.output
        for branch, pairs in parts.items():
            if pairs:
                said = self.of(branch, [image for _, image in pairs])
                value = said.output_as(positive.readout).to(output.dtype)
                output = put(output, [row for row, _ in pairs], value)
        return Prediction(positive.x, output, positive.readout)
