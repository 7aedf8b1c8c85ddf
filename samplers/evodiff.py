"""EVODiff as a scheduler of Diffusers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..guidance.engine.tensors import upcast

__all__ = ["EVODiffMultistepScheduler", "SchedulerMixin"]  # Diffusers looks for the base class here

TINY = 1e-20
FAR = 1e6  # sigma / alpha where there is no signal left


@dataclass(frozen=True)
class Guess:
    """A predicted step, until the network's answer there corrects it.

    Everything is on EDM's scale, ``y = x0 + kappa * noise`` with ``kappa = sigma / alpha``.

    Attributes:
        alpha, kappa: where the step leads.
        euler: the first-order step (B, ...).
        m0, m1: the last two clean images (B, ...), that at the step's start first.
        d1: their balanced change (B, ...).
        ratio: ``ln(kappa_1 / kappa_0) / ln(kappa_0 / kappa)``: the step before over this one.
        reach: of the prediction, the r of ``d1 / r``.
        base, omega: of the balance, see ``rho``.
        start: kappa_0.
    """

    alpha: float
    kappa: float
    euler: Tensor
    m0: Tensor
    m1: Tensor
    d1: Tensor
    ratio: float
    reach: Tensor | float
    base: float
    omega: float
    start: float

    @property
    def h(self) -> float:
        return 1 / self.kappa - 1 / self.start

    def arrival(self, slope: Tensor, reach: Tensor | float) -> Tensor:
        """``euler + kappa * h / 2 * slope / reach``."""
        return self.euler + 0.5 * self.kappa * self.h * slope / reach


class EVODiffMultistepScheduler(DPMSolverMultistepScheduler):
    """EVODiff: a multistep solver that balances past clean images by their variance.

    Li et al. 2025 (arXiv:2509.26096, NeurIPS 2025), one evaluation for each step. On
    ``y = x / alpha``, with m0 and m1 the last two clean images and ``h = 1/kappa - 1/kappa_0``::

        d1 = m0 - rho1 m1       guess = euler + kappa h/2 * d1 / r
        m  = network(guess)     the only evaluation, and the next m0
        d2 = m - rho2 m0        y = euler + kappa h/2 * (rlog (1 - eta) d2 - eta/rlog d1) / zeta

    rho lies between a ratio of noise levels and the regression of one image on the other; eta and
    zeta follow from how the guess changes; all are taken for each channel. The first step is
    Euler's, and the last one too where it leads to the image (``final_sigmas_type="zero"``). Where
    it ends above (``"sigma_min"``), the last step is one of the authors' own, unless
    ``lower_order_final`` is False. All other steps, with ``rho = 1``, ``r = rlog`` and no
    corrector, are those of DPM-Solver++ (2M).

    The configuration is that of ``DPMSolverMultistepScheduler``, so that
    ``EVODiffMultistepScheduler.from_config(pipe.scheduler.config)`` fits any pipeline that takes
    it. ``algorithm_type`` has to be "dpmsolver++"; ``solver_order`` and ``solver_type`` mean
    nothing here. The coefficients, read from the authors' code, are made for few steps: rho, r and
    zeta do not tend to those of a consistent second-order method.
    """

    corrector = True

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """As of the parent class.

        Raises:
            ValueError: ``algorithm_type`` is another than "dpmsolver++".
        """
        kind = self.config.algorithm_type
        if kind != "dpmsolver++":
            raise ValueError(f"algorithm_type is {kind!r}; allowed for EVODiff is 'dpmsolver++'")
        super().set_timesteps(*args, **kwargs)
        self._past: list[Tensor] = []  # clean images, the last one first, two at most
        self._guess: Guess | None = None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """From one level to the next; arguments and result as of the parent class."""
        if self.num_inference_steps is None:
            raise ValueError("num_inference_steps is None; call set_timesteps before step")
        if self.step_index is None:
            self._init_step_index(timestep)
        m = self.convert_model_output(upcast(model_output), sample=upcast(sample))
        alpha, kappa = self._at(self.step_index)
        y = upcast(sample) / alpha
        if self._guess is not None and self.corrector:
            y = self._corrected(self._guess, m)
        self._past = [m, *self._past][:2]
        previous = self._next(y, kappa)
        self._step_index += 1
        previous = previous.to(model_output.dtype)
        return SchedulerOutput(prev_sample=previous) if return_dict else (previous,)

    def _at(self, index: int) -> tuple[float, float]:
        """alpha and kappa of a level."""
        alpha, sigma = map(float, self._sigma_to_alpha_sigma_t(self.sigmas[index]))
        alpha = max(alpha, sigma / FAR)
        return alpha, sigma / alpha

    def _next(self, y: Tensor, start: float) -> Tensor:
        """The latents at the next level: Euler's first, then a guess; the last step is special."""
        self._guess = None
        index, m0 = self.step_index, self._past[0]
        alpha, kappa = self._at(index + 1)
        euler = kappa / start * y + (1 - kappa / start) * m0
        if len(self._past) == 1 or kappa in (0, start):  # Karras' levels repeat the last one
            return alpha * euler
        if index == len(self.timesteps) - 1 and self.config.lower_order_final:
            return alpha * self._last(euler, m0, self._past[1], kappa, start)
        self._guess = guess = self._guessed(euler, alpha, kappa, start)
        return alpha * guess.arrival(guess.d1, guess.reach)

    def _guessed(self, euler: Tensor, alpha: float, kappa: float, start: float) -> Guess:
        m0, m1 = self._past[:2]
        index, top = self.step_index, self.config.num_train_timesteps
        before = self._at(index - 1)[1]
        times = self.timesteps.tolist()
        time = times[index + 1] if index + 1 < len(times) else 0
        omega = 0.5 * (1 - ((time + 1) / (top + 1)) ** 2)
        base = math.sqrt(kappa / start / (start / before))
        ratio = math.log(before / start) / math.log(start / kappa)
        rho = self.rho(m0, m1, base, omega)
        return Guess(
            alpha, kappa, euler, m0, m1, m0 - rho * m1, ratio, self.reach(rho, ratio), base, omega,
            start,
        )  # fmt: skip

    def rho(self, new: Tensor, old: Tensor, base: float, omega: float) -> Tensor | float:
        """How much of the older clean image to subtract, for each channel."""
        return (1 - omega) * base + omega * _share(new, old)

    def reach(self, rho: Tensor | float, ratio: float) -> Tensor | float:
        """The r of the prediction."""
        wanted = torch.sigmoid(0.25 * torch.as_tensor(rho).abs()) * ratio
        return wanted.clamp(0.25 * ratio, 1.5 * ratio)

    def _corrected(self, guess: Guess, m: Tensor) -> Tensor:
        """The step that was guessed, with the clean image found there."""
        ratio, d1 = guess.ratio, guess.d1
        d2 = m - self.rho(m, guess.m0, guess.base, guess.omega) * guess.m0
        ahead, behind = ratio * d2, d1 / ratio
        eta = 0.5 * torch.sigmoid(0.5 * _share(ahead + behind, ahead - behind).abs())
        change = (1 - eta) * ahead - eta * behind
        size = guess.kappa * guess.h  # 1 - kappa / kappa_0
        rest = 0.5 * size / guess.reach * (d1 - change)
        surprise = (_share(rest, d1) / size).abs() - 0.5
        if self.num_inference_steps > 20:
            trend = _share(guess.m0, (guess.m0 - guess.m1) / guess.h) * (
                2 - (guess.kappa / guess.start) ** 2
            )
            surprise = -surprise * torch.sigmoid(trend)
        return guess.arrival(change, torch.sigmoid(surprise))

    def _last(self, euler: Tensor, m0: Tensor, m1: Tensor, kappa: float, start: float) -> Tensor:
        """The authors' last step, where it ends above zero."""
        q = kappa / start
        damped = 1 - 0.5 * math.sqrt(q if q < 0.5 else q - 0.5)
        return (1 - math.sqrt(kappa * start)) * euler + 0.5 * (1 - q) * (m0 - damped * m1)


def _share(a: Tensor, b: Tensor) -> Tensor:
    """``<a, b> / <b, b>`` for each channel, from -2 to 2.

    Channels are those of (B, C, H, W) and (B, C, T, H, W), and of the tokens (B, N, C).
    """
    over = tuple(range(2, a.dim())) if a.dim() > 3 else (1,)
    product, square = (a * b).sum(over, keepdim=True), (b * b).sum(over, keepdim=True)
    return (product / square.clamp_min(TINY)).clamp(-2, 2)
