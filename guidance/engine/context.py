"""What a method may ask of the pipeline it works in, beside predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """What a network is told in place of an image's own prompt; equal only to itself.

    Attributes:
        name: the prompt or the class.
        arguments: for whoever evaluates the network; guidance does not look inside.
    """

    name: str
    arguments: Any = field(default=None, repr=False)


class Context:
    """Base, which offers nothing: a guider at work without a pipeline.

    Attributes:
        prompts: for each image what it is asked to be, a text or a class.
    """

    prompts: Sequence[Any] = ()

    @property
    def seeds(self) -> Sequence[int]:
        """For each image a number of 32 bits that follows from what it is drawn from, its generator
        or latents, on any device; empty where that is not known."""
        return ()

    def condition(self, prompt: Any) -> Condition:
        """Another prompt, or class, as the network is told it."""
        raise self._missing("another prompt")

    def decode(self, x0: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] of clean images (B, ...), differentiable."""
        raise self._missing("decoded pictures")

    def classifier(self, name: str, prompts: Sequence[Any]) -> Callable[[Tensor], Tensor]:
        """By its name, what turns pictures (B, 3, H, W) in [-1, 1] into logits (B, prompts)."""
        raise self._missing(f"the classifier {name!r}")

    def reward(self, name: str) -> Callable[[Tensor, Sequence[Any]], Tensor]:
        """By its name, what turns pictures (B, 3, H, W) in [0, 1] and prompts into scores (B,)."""
        raise self._missing(f"the reward {name!r}")

    @staticmethod
    def _missing(what: str) -> ValueError:
        return ValueError(
            f"the guider asks for {what}, which only a pipeline has; allowed is "
            "`with guided(pipe, guider)`, or a context=... of your own"
        )
