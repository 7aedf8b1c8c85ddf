"""Which evaluations of a trajectory carry gradients, and where it ends: AlignProp to DRTune."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ...guidance import Config
from ...guidance.engine.config import as_integer, choice, integer, number, reject


@dataclass(frozen=True)
class Draw:
    """One trajectory's draw.

    Attributes:
        steps: the evaluations (from 0) whose network calls carry gradients.
        stop: the last evaluation; the clean image is read off there where others would follow.
        total: evaluations of the whole trajectory.
    """

    steps: frozenset[int]
    stop: int
    total: int


@dataclass(frozen=True)
class Truncation(Config):
    """How far gradients go back; drawn once for each trajectory (of a batch).

    With *k* evaluations at the end the network's calls before them are made without gradients, so
    that nothing before depends on a parameter: this is exact backpropagation through the last k.

    Attributes:
        kind: of the number of evaluations k out of N:

            - ``gaussian``: ``N - k = int(n)``, n normal with mean ``N - steps`` and standard
              deviation ``spread``, drawn again until ``1 <= N - k < N``. The released code of
              AlignProp (Prabhudesai et al. 2023, arXiv:2310.03739), with 8 and 5 at N = 50.
            - ``uniform``: k is any of 1 to N - 1: the best of AlignProp's ablation.
            - ``fixed``: k is ``steps``. DRaFT-K (Clark et al. 2023, arXiv:2309.17400).
            - ``all``: k = N. DRaFT.
            - ``spaced``: ``steps`` evaluations at equal distances over the whole trajectory, from
              a random first one. DRTune (Wu et al. 2024, arXiv:2405.00760), as an independent
              implementation has it (github.com/RuoyuWang-2077/FlowBP).
        steps: see ``kind``; by default 8, and half of the evaluations where those are fewer.
        spread: of ``gaussian``.
        early_stop: end at one of the last so many evaluations, drawn uniformly, and read the clean
            image off there; 0 and 1 are the whole trajectory. ReFL (Xu et al. 2023,
            arXiv:2304.05977) stops at one of 30 to 39 of 40: 10. Only pipelines that can be
            interrupted.
        detach_input: stop gradients at the network's input, so that none go through its Jacobian:
            DRTune.
        renoise: take the last step so many times more, from fresh noise on the detached final
            image, and average: DRaFT-LV, which means ``fixed`` with 1 step. Independent
            implementations give 2 as the paper's number.

    Raises:
        ValueError: a setting is not allowed, or two of them together.
    """

    kind: str = choice("gaussian", "gaussian", "uniform", "fixed", "all", "spaced")
    steps: float | None = number(None, low=1, optional=True)
    spread: float = number(5, low=0)
    early_stop: int = integer(0, low=0)
    detach_input: bool = False
    renoise: int = integer(0, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "gaussian" and self.steps is not None:
            self._set("steps", as_integer(self, "steps", self.steps, low=1))
        if not isinstance(self.detach_input, bool):
            raise reject(self, "detach_input", self.detach_input, "True or False")
        if self.renoise and (self.kind, self.steps, self.early_stop > 1) != ("fixed", 1, False):
            allowed = "0 unless kind is 'fixed' with steps 1 and no early_stop"
            raise reject(self, "renoise", self.renoise, allowed)

    def at(self, total: int) -> Truncation:
        """The same with a number of steps where ``total`` evaluations decide it.

        Raises:
            ValueError: this cannot be drawn for them.
        """
        least = 2 if self.kind in ("gaussian", "uniform") or self.renoise else 1
        if total < least:
            raise reject(self, "evaluations", total, f"at least {least} with kind {self.kind!r}")
        if self.early_stop > total:
            raise reject(self, "early_stop", self.early_stop, f"at most the {total} evaluations")
        if self.kind in ("all", "uniform"):
            return self
        whole = total - max(self.early_stop - 1, 0)
        if self.steps is None:
            return self.replace(steps=max(1, min(8, whole // 2)))
        room = whole - (self.kind == "gaussian")
        if self.steps > room:
            raise reject(
                self, "steps", self.steps, f"at most {room}, for num_inference_steps of {total} "
                "(the steps with gradients: --truncation-steps on the command line)"
            )  # fmt: skip
        return self

    def within(self, total: int) -> Truncation:
        """A method's numbers, where they are meant for longer runs than one of ``total``.

        An early stop lies in the last quarter: there ReFL found pictures whose reward tells them
        apart, 30 to 39 of 40. No more evaluations carry gradients than there are before it.
        """
        early = min(int(self.early_stop), total // 4)
        known = self.replace(early_stop=early)
        if self.kind != "gaussian" and self.steps is not None:
            known = known.replace(steps=min(self.steps, max(1, total - max(early - 1, 0))))
        return known

    def draw(self, total: int, rng: random.Random) -> Draw:
        """One draw for a trajectory of ``total`` evaluations.

        Raises:
            ValueError: see ``at``.
        """
        known = self.at(total)
        steps = int(known.steps or 0)
        stop = total - 1
        if self.early_stop > 1:
            stop -= rng.randrange(self.early_stop)
        length = stop + 1
        if self.kind == "spaced":
            apart = length // steps
            first = rng.randrange(length - apart * (steps - 1))
            return Draw(frozenset(first + apart * i for i in range(steps)), stop, total)
        cut = 0
        if self.kind == "gaussian":
            while not 1 <= cut < length:
                cut = int(rng.gauss(length - (known.steps or 0), self.spread))
        elif self.kind == "uniform":
            cut = rng.randint(1, max(length - 1, 1))
        elif self.kind == "fixed":
            cut = length - steps
        return Draw(frozenset(range(min(cut, stop), length)), stop, total)
