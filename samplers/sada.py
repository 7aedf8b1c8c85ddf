"""SADA: leave out whole evaluations of the network where the trajectory is smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..guidance import Context, Denoiser, Guided, Guider, Level, Prediction, Readout, Step
from ..guidance.engine.config import Config, choice, integer, number, reject
from ..guidance.engine.denoiser import Conversation
from ..guidance.engine.finite import row_sums
from ..guidance.engine.tensors import put, take, upcast
from ..guidance.engine.vectors import dot
from .noise_level import adds_noise

COEFFICIENTS = {"paper": (5 / 6, 5 / 6, -2 / 3), "code": (0.625, 0.75, -0.375)}
TRAINING_STEPS = 1000


@dataclass(frozen=True)
class SADA(Config):
    """Stability-guided acceleration: ``guided(pipe, guider, skip=SADA())``.

    Jiang et al. 2025 (arXiv:2507.17135, ICML 2025). With m_0, m_1, m_2 what the last three steps
    would have moved x by at first order, the latest first, and ``a + b + c = 1``::

        guess = x_before + a m_0 + b m_1 + c m_2
        stable  <=>  <x - guess, (m_0 - m_1) - (m_1 - m_2)> >= 0

    (The paper writes gradients, which have the opposite sign.) In a stable step the network is not
    evaluated: its noise is that of the step before, on the guessed x; for rectified flows the
    velocity goes on in a straight line. In the late part every fourth step is evaluated, whatever
    the criterion says, and the clean images between are extrapolated by Lagrange's polynomial.
    Each image has its own decisions. What is left out are steps, so it adds to guiders that leave
    out branches, such as ``Adaptive``.

    Made for deterministic solvers with one evaluation a step. The paper's pruning of tokens within
    unstable steps, which has to know the network's inside, is not part of it.

    Attributes:
        coefficients: a, b, c; "paper" is 5/6, 5/6, -2/3, "code" 0.625, 0.75, -0.375 as released.
        stride: "actual" is the length of the step taken. The released code has the training's
            schedule with the sampler's count of steps, so that its guess goes only ``N / 1000`` of
            the way for VP models: "code".
        start, late, stop: shares of the steps, from which on steps are left out, every
            ``interval``-th is evaluated, and all are evaluated again. The paper's are 10, 24 and 47
            of 50.
        interval: in the late part; 1 goes on with the criterion.
        most: steps left out in a row by the criterion.
        nodes: clean images that the polynomial goes through, about ``interval`` steps apart.
    """

    coefficients: str = choice("paper", "paper", "code")
    stride: str = choice("actual", "actual", "code")
    start: float = number(0.2, low=0, high=1)
    late: float = number(0.48, low=0, high=1)
    stop: float = number(0.94, low=0, high=1)
    interval: int = integer(4, low=1)
    most: int = integer(4, low=1)
    nodes: int = integer(4, low=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.start <= self.late <= self.stop:
            expected = f"a number between start (= {self.start:g}) and stop (= {self.stop:g})"
            raise reject(self, "late", self.late, expected)

    def phase(self, step: Step) -> str:
        """Which rule holds at a step: "whole", "early" or "late"."""
        done = (step.index + 1e-9) / step.total
        if not self.start <= done < self.stop:
            return "whole"
        return "late" if done >= self.late and self.interval > 1 else "early"

    def __str__(self) -> str:
        return "SADA"


@dataclass(frozen=True)
class _Past:
    """A step that was taken: x and the guided clean image D (B, ...), and who was evaluated."""

    step: Step
    x: Tensor
    clean: Tensor
    evaluated: list[bool]

    @property
    def noise(self) -> Tensor:
        level = self.step.level
        return (self.x - level.alpha * self.clean) / level.std

    @property
    def move(self) -> Tensor:
        """What a step of first order adds to x."""
        here, there = self.step.level, self.step.next_level or Level(1.0, 0.0)
        return (there.alpha - here.alpha) * self.clean + (there.std - here.std) * self.noise


class Accelerated(Denoiser):
    """A ``Denoiser`` that leaves out evaluations as SADA says.

    Args:
        settings: a ``SADA``.
        readout: how the output of the network is read at a level, for the steps without one.
        guiders, batch, context, diagnose, cosines: as for ``Denoiser``.
    """

    def __init__(
        self,
        settings: SADA,
        readout: Callable[[Step], Readout],
        guiders: Guider | Sequence[Guider],
        batch: int,
        context: Context | None = None,
        diagnose: bool = False,
        cosines: bool = False,
    ) -> None:
        super().__init__(guiders, batch, context, diagnose, cosines)
        self._settings, self._readout = settings, readout
        self._past: list[_Past] = []
        self._guess: Tensor | None = None
        self._in_a_row = [0] * batch
        self._dtype: torch.dtype | None = None

    def step(
        self, step: Step, x: Tensor | None = None, left_out: Sequence[int] = ()
    ) -> Conversation:
        """As of a ``Denoiser``; without x (B, ...) nothing is left out.

        Raises:
            ValueError: the solver evaluates several times in a step.
        """
        if step.stage:
            raise ValueError(
                "skip is SADA and the scheduler evaluates several times in a step; allowed "
                "is one evaluation a step, as by DDIM, Euler, DPM-Solver++ or UniPC"
            )
        omitted = set() if x is None else self._decided(step, upcast(x.detach()))
        for image in range(self.batch):
            run = self._in_a_row[image] + 1
            self._in_a_row[image] = run if image in omitted else 0
        guided = yield from super().step(step, x, sorted({*left_out, *omitted}))
        return self._filled(guided, sorted(omitted))

    def _decided(self, step: Step, x: Tensor) -> set[int]:
        """The images that are not evaluated at a step."""
        settings, past = self._settings, self._past
        phase = settings.phase(step)
        if phase == "whole" or len(past) < 3 or not self._dtype:
            return set()
        if phase == "late":
            first = next(i for i in range(step.index + 1) if settings.phase(_at(step, i)) == "late")
            return set() if (step.index - first) % settings.interval == 0 else {*range(self.batch)}
        m0, m1, m2 = (one.move for one in reversed(past[-3:]))
        a, b, c = COEFFICIENTS[settings.coefficients]
        share = step.total / TRAINING_STEPS if settings.stride == "code" else 1.0
        self._guess = past[-1].x + share * (a * m0 + b * m1 + c * m2)
        stable = (dot(x - self._guess, (m0 - m1) - (m1 - m2)) >= 0).values.tolist()
        return {
            image
            for image, calm in enumerate(stable)
            if calm and self._in_a_row[image] < settings.most
        }

    def _filled(self, guided: Guided, left_out: list[int]) -> Guided:
        """With a guess where nothing was evaluated, and remembered for the guesses to come."""
        output, positive, step = guided.output, guided.positive, guided.step
        x = upcast(positive.x.detach())
        if left_out:
            whole = len(left_out) == self.batch
            readout = self._readout(step) if whole else positive.readout
            made = Prediction(take(x, left_out), self._made(step, x, left_out), Readout(0.0, 1.0))
            said = made.output_as(readout) if readout.gain else made.output * 0
            assert self._dtype is not None
            said = said.to(self._dtype)
            output = said if whole else put(output, left_out, said)
            positive = Prediction(positive.x, output, readout)
            guided = Guided(output, positive, guided.record, row_sums(output), step)
        self._dtype = output.dtype
        evaluated = [image not in left_out for image in range(self.batch)]
        clean = upcast(guided.x0.detach())
        self._past.append(_Past(step, x, clean, evaluated))
        settings = self._settings
        del self._past[: -settings.nodes * (settings.interval + settings.most)]
        return guided

    def _made(self, step: Step, x: Tensor, images: list[int]) -> Tensor:
        """Clean images (images, ...) for the network's."""
        if self._settings.phase(step) == "late":
            return torch.stack([self._interpolated(step.index, image) for image in images])
        level, last, before = step.level, self._past[-1], self._past[-2]
        if _is_flow(level):
            velocity = 2 * (last.noise - last.clean) - (before.noise - before.clean)
            return take(x - level.std * velocity, images)
        assert self._guess is not None
        return take((self._guess - level.std * last.noise) / level.alpha, images)

    def _interpolated(self, index: int, image: int) -> Tensor:
        """Lagrange's polynomial through clean images that were evaluated, at ``index``."""
        chosen: list[_Past] = []
        for one in reversed(self._past):
            apart = not chosen or chosen[-1].step.index - one.step.index >= self._settings.interval
            if one.evaluated[image] and apart and len(chosen) < self._settings.nodes:
                chosen.append(one)
        total = torch.zeros_like(chosen[0].clean[image])
        for one in chosen:
            weight = 1.0
            for other in chosen:
                if other is not one:
                    here, there = one.step.index, other.step.index
                    weight *= (index - there) / (here - there)
            total = total + weight * one.clean[image]
        return total


def check_solver(scheduler: Any, eta: float = 0.0) -> None:
    """Can evaluations be left out under this scheduler?

    Raises:
        ValueError: it draws noise, which no guess can know.
    """
    if adds_noise(scheduler, eta):
        raise ValueError(
            f"skip is SADA and {type(scheduler).__name__} draws noise at every step; allowed "
            "is a deterministic scheduler, such as DDIM with eta 0, Euler, DPM-Solver++ or UniPC"
        )


def _at(step: Step, index: int) -> Step:
    return Step(index, step.total, step.stage, step.level)


def _is_flow(level: Level) -> bool:
    """``alpha = 1 - sigma``, and not 1 as on EDM's scale."""
    return abs(level.alpha + level.std - 1) < 1e-4 and level.std > 1e-4
