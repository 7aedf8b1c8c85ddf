"""Gradient-free classifier guidance: away from what a classifier mistakes the image for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine.config import choice, number, reject
from ..engine.context import Condition
from ..engine.levels import Step
from ..engine.predictions import Prediction, Query
from ..engine.reference import Asked, Branch, Follow, Reference
from ..engine.state import Rows, State
from ..engine.tensors import wide

ANOTHER = Branch(Condition("another prompt"))


@dataclass(frozen=True)
class Confusion(Reference):
    """GFCG: the class or prompt that the picture so far is most confused with.

    Shenoy et al. 2024 (arXiv:2411.15393, WACV 2026): a classifier, in inference mode, looks at the
    clean prediction; the class it confuses it with is the reference, and how much decides the
    scale. Only the abstract and a paragraph of the paper were at hand: this is a reconstruction,
    and every choice in it is a setting. With ``p = softmax(logits / temperature)`` of the positive
    prediction, y what was asked for and r the likeliest other class, an image is confused where
    ``p_y < threshold``, and ``x0 = D_y + (scale - 1) * gain * (D_y - D_r)``::

        CFG(4, reference=Confusion(prompts))                            alone: 1 or 2 evaluations
        CFG(4, reference=Confusion(prompts, otherwise=Negative(), gain="one"))    mixed with CFG
        CFG(2, reference=Confusion(prompts, otherwise=WeakModel(weak), model=weak, gain="one"))

    The last one is the paper's combination with autoguidance at no further evaluation: the weak
    model is asked for r where the image is confused. A decoder and a classifier at every step take
    time without being network evaluations. A classifier of clean images is too sure of itself at
    high noise: ``below`` and ``temperature`` are for that.

    Attributes:
        prompts: the classes or prompts to tell apart; those of the images have to be among them,
            or are added where the classifier reads texts.
        classifier: the name of a shipped model, a folder or an id on the Hub (image-text models
            compare the picture with each prompt, image classifiers have labels), or a function of
            pictures (B, 3, H, W) in [-1, 1] (or of x0, see ``space``) to logits (B, prompts).
        space: what the classifier sees, "pictures" or "latents".
        temperature: of the softmax.
        threshold: tau; an image is confused below it.
        gain: "confusion" is ``1 - p_y``, "ratio" ``p_r / (p_y + p_r)``, "margin"
            ``(tau - p_y) / tau``, "one" 1.
        below: sigma above which the classifier is not asked, and nothing is confused.
        every: evaluations from one look of the classifier to the next.
        otherwise: the reference of images that are not confused; without one they are not guided.
        model: of the reference prediction, as in ``WeakModel``; the pipeline's own by default.
    """

    formula: ClassVar[str] = "D_r, r the likeliest wrong class; w - 1 times 1 - p_y"

    prompts: Any = ()
    classifier: Any = None
    space: str = choice("pictures", "pictures", "latents")
    temperature: float = number(1.0, low=0, open_ends=True)
    threshold: float = number(0.99, low=0, high=1)
    gain: str = choice("confusion", "confusion", "ratio", "margin", "one")
    below: float | None = number(None, low=0, optional=True)
    every: float = number(1, low=1)
    otherwise: Any = None
    model: Any = None

    needs_positive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        several = self.prompts if isinstance(self.prompts, (tuple, list)) else ()
        plain = all(isinstance(p, (str, int)) and not isinstance(p, bool) for p in several)
        if not plain or len(set(several)) < 2:
            raise reject(self, "prompts", self.prompts, "a list of at least two texts or classes")
        self._set("prompts", tuple(several))
        if not callable(self.classifier) and not isinstance(self.classifier, str):
            raise reject(self, "classifier", self.classifier, "a name or a function")
        if self.space == "latents" and isinstance(self.classifier, str):
            raise reject(self, "classifier", self.classifier, "a function, to look at latents")
        if self.otherwise is not None and (
            not isinstance(self.otherwise, Reference)
            or type(self.otherwise).asks is not Reference.asks
        ):
            allowed = "a reference that is one branch, such as Negative(), or None"
            raise reject(self, "otherwise", self.otherwise, allowed)
        if self.model is not None and not callable(self.model) and not isinstance(self.model, str):
            raise reject(self, "model", self.model, "a network, the name of one, or None")
        if self.every != int(self.every):
            raise reject(self, "every", self.every, "a whole number of at least 1")

    def branch(self) -> Branch:
        return self.otherwise.branch() if self.otherwise else ANOTHER

    def asks(self, step: Step, state: State, rows: Sequence[int]) -> Asked:
        return {self.branch(): rows} if self.otherwise and not self._looks(step) else {}

    def most(self, step: Step, state: State, rows: Sequence[int]) -> Asked:
        return {self.branch(): rows} if self.otherwise or self._looks(step) else {}

    def follow(self, q: Query, positive: Prediction, state: Rows) -> Follow:
        rows = len(positive.output)
        if not self._looks(q.step):
            return Follow(gains=None if self.otherwise else [0.0] * rows)
        every = self._every(state)
        due = q.step.index % int(self.every) == 0 or not state.has("mistaken")
        if due and q.step.stage == 0:
            self._look(positive, every, state)
        mistaken, gains = state.latest("mistaken"), state.latest("gain")
        asked: dict[Branch, list[int]] = {}
        for row, (index, gain) in enumerate(zip(mistaken, gains, strict=True)):
            if gain:
                condition = state.context.condition(every[int(index)])
                asked.setdefault(Branch(condition, self.model), []).append(row)
            elif self.otherwise:
                asked.setdefault(self.branch(), []).append(row)
                gains[row] = 1.0
        return Follow(asked, gains)

    def _looks(self, step: Step) -> bool:
        return self.below is None or step.sigma <= self.below

    def _every(self, state: Rows) -> tuple[Any, ...]:
        """All that the classifier is asked about, in an order that holds for the whole run."""
        for prompt in state.prompts:
            reads = isinstance(self.classifier, str) and isinstance(prompt, str)
            if prompt is None or (prompt not in self.prompts and not reads):
                raise ValueError(
                    f"Confusion: an image's prompt is {prompt!r}; allowed is one of the prompts"
                )
        if not isinstance(self.classifier, str):
            return self.prompts
        own = [prompt for prompt in state.context.prompts if isinstance(prompt, str)]
        return tuple(dict.fromkeys((*self.prompts, *own)))

    @torch.no_grad()
    def _look(self, positive: Prediction, every: tuple[Any, ...], state: Rows) -> None:
        """Ask the classifier, and keep for each row the class it is confused with and the gain."""
        seen, prompts = positive.x0.tensor(), state.prompts
        if self.space == "pictures":
            seen = state.context.decode(seen)
        classify = self.classifier
        if isinstance(classify, str):
            classify = state.context.classifier(classify, every)
        logits = classify(seen)
        if not isinstance(logits, Tensor) or logits.shape != (len(seen), len(every)):
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"Confusion: the classifier gave {what}; allowed are logits of shape "
                f"{(len(seen), len(every))}, images by prompts"
            )
        logits = wide(logits) / self.temperature
        # Other images' prompts are not for this one to be confused with.
        mine = [[one in self.prompts or one == own for one in every] for own in prompts]
        logits = logits.where(torch.tensor(mine, device=logits.device), -torch.inf)
        p = logits.softmax(dim=1)
        if p.isnan().any():
            raise ValueError("Confusion: the classifier gave NaN or infinite logits")
        own = torch.tensor([every.index(prompt) for prompt in prompts], device=p.device)
        right = p.gather(1, own[:, None]).squeeze(1)
        others, mistaken = p.scatter(1, own[:, None], -1.0).max(dim=1)
        gain = {
            "confusion": 1 - right,
            "ratio": others / (right + others).clamp_min(torch.finfo(p.dtype).tiny),
            "margin": ((self.threshold - right) / max(self.threshold, 1e-12)).clamp(0, 1),
            "one": torch.ones_like(right),
        }[self.gain]
        state.set("mistaken", wide(mistaken))
        state.set("gain", torch.where(right < self.threshold, gain, 0.0))

    def to_dict(self) -> Any:
        for name in ("classifier", "model"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(
                    f"Confusion: {name} is a {type(value).__name__}, which is not stored as JSON; "
                    "give the name of one"
                )
        return super().to_dict()

    def __str__(self) -> str:
        asked = f" or {self.otherwise}" if self.otherwise else ""
        return f"what {len(self.prompts)} prompts are confused with{asked}"
