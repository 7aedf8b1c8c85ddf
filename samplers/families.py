"""Which noise level the network sees: one way to read it for each kind of Diffusers' schedulers.

A level function takes (scheduler, index in its timesteps, timestep) and answers for that
evaluation, wherever the scheduler is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..guidance import Level
from .readouts import (
    Reader,
    always,
    configured,
    configured_or_flow,
    consistency,
    flow_or_reversed,
    preconditioned,
)


@dataclass(frozen=True)
class Family:
    """How the schedulers of one kind are read.

    Attributes:
        level: (scheduler, index, timestep) to the level of what the network sees.
        readout: (scheduler, level) to how the network's output becomes x0.
        by_time: does the level follow from the timestep alone, whatever the index?
        open_end: (scheduler) to whether the last of its timesteps is where the last step leads,
            and not an evaluation.
    """

    level: Callable[[Any, int, float], Level]
    readout: Reader
    by_time: bool = False
    open_end: Callable[[Any], bool] = lambda scheduler: False


def tabulated(scheduler: Any, index: int, timestep: float) -> Level:
    """DDPM and its relatives, which look their level up by timestep."""
    return _of_alpha2(scheduler.alphas_cumprod[_whole(scheduler, timestep)])


def one_step_cleaner(scheduler: Any, index: int, timestep: float) -> Level:
    """DDIM backwards, which asks at the timestep that its step leads to."""
    step = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    before = _whole(scheduler, timestep) - step
    return _of_alpha2(
        scheduler.alphas_cumprod[before] if before >= 0 else scheduler.initial_alpha_cumprod
    )


def cosine(scheduler: Any, index: int, timestep: float) -> Level:
    """Würstchen's continuous cosine, over times from 0 to 1."""
    time = torch.tensor([_share(timestep)])
    return _of_alpha2(scheduler._alpha_cumprod(time, time.device))


def share_of_image(scheduler: Any, index: int, timestep: float) -> Level:
    """Flows whose timestep goes from 0 for noise to 1 for the image."""
    return Level(_share(timestep), 1 - timestep)


def variance_preserving(scheduler: Any, index: int, timestep: float) -> Level:
    """EDM's sigmas, and a network that sees ``y / sqrt(1 + sigma^2)``."""
    return _scaled(float(scheduler.sigmas[index]))


def interpolated(scheduler: Any, index: int, timestep: float) -> Level:
    """KDPM2, whose second stage lies between two levels."""
    return _scaled(float((scheduler.sigmas_interpol if index % 2 else scheduler.sigmas)[index]))


def interpolated_ancestral(scheduler: Any, index: int, timestep: float) -> Level:
    """Ancestral KDPM2, which keeps the level of the second stage where the first one's is."""
    if index % 2:
        return _scaled(float(scheduler.sigmas_interpol[index - 1]))
    return _scaled(float(scheduler.sigmas[index]))


def midpoint(scheduler: Any, index: int, timestep: float) -> Level:
    """DPM-Solver SDE, whose second stage lies at the geometric mean of two levels."""
    first = scheduler.sigmas[index - index % 2]
    return _scaled(math.sqrt(float(first) * float(scheduler.sigmas[index])))


def variance_preserving_or_flow(scheduler: Any, index: int, timestep: float) -> Level:
    """The DPM-Solver relatives, which can be set to flow sigmas."""
    read = flow if scheduler.config.use_flow_sigmas else variance_preserving
    return read(scheduler, index, timestep)


def one_resolution(scheduler: Any, index: int, timestep: float) -> Level:
    """Helios, whose sigmas are noise levels only without a pyramid of resolutions."""
    if scheduler.config.stages != 1:
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} has {scheduler.config.stages} stages; allowed "
            "is 1, since sigma counts within a stage otherwise"
        )
    return variance_preserving_or_flow(scheduler, index, timestep)


def alphas_and_betas(scheduler: Any, index: int, timestep: float) -> Level:
    """Improved PNDM, which lists alpha and sigma, and calls them alphas and betas."""
    return Level(float(scheduler.alphas[index]), float(scheduler.betas[index]))


def unit_variance(scheduler: Any, index: int, timestep: float) -> Level:
    """EDM's sigmas, and a network that sees ``y / sqrt(sigma_data^2 + sigma^2)``."""
    return _scaled(float(scheduler.sigmas[index]), scheduler.config.sigma_data)


def flow(scheduler: Any, index: int, timestep: float) -> Level:
    """Rectified flow: ``x = (1 - sigma) * x0 + sigma * noise``."""
    sigma = float(scheduler.sigmas[index])
    if sigma > 1 + 1e-4:  # rounding takes a shifted 1 above itself
        raise ValueError(
            f"scheduler: a flow sigma of {type(scheduler).__name__} is {sigma:g}; allowed is a "
            "number from 0 to 1, which Karras, exponential and beta sigmas of this class are not"
        )
    return Level(max(0.0, 1 - sigma), sigma)


def flow_or_inverted(scheduler: Any, index: int, timestep: float) -> Level:
    """Rectified flow; with ``invert_sigmas`` the scheduler lists ``1 - sigma``."""
    if not scheduler.config.invert_sigmas:
        return flow(scheduler, index, timestep)
    _refuse_inverted(scheduler, scheduler.config.stochastic_sampling)
    alpha = float(scheduler.sigmas[index])
    return Level(alpha, 1 - alpha)


def flow_with_new_noise(scheduler: Any, index: int, timestep: float) -> Level:
    """Rectified flow of consistency models."""
    _refuse_inverted(scheduler, scheduler.config.invert_sigmas)
    return flow(scheduler, index, timestep)


def _refuse_inverted(scheduler: Any, refused: bool) -> None:
    if refused:
        raise ValueError(
            f"scheduler: invert_sigmas of {type(scheduler).__name__} is True; allowed is False "
            "where each step adds noise, since the last one would end at noise"
        )


def _of_alpha2(alpha2: Any) -> Level:
    """The variance-preserving level of a number ``alpha^2``."""
    return Level(math.sqrt(float(alpha2)), math.sqrt(1 - float(alpha2)))


def _scaled(sigma: float, data: float = 1.0) -> Level:
    """``x0 + sigma * noise``, divided by its spread where x0 has the spread ``data``."""
    alpha = 1 / math.hypot(sigma, data)
    return Level(alpha, sigma * alpha)


def _whole(scheduler: Any, timestep: float) -> int:
    top = len(scheduler.alphas_cumprod) - 1
    if timestep != int(timestep) or not 0 <= timestep <= top:
        raise ValueError(f"timestep is {timestep:g}; allowed is a whole number from 0 to {top}")
    return int(timestep)


def _share(timestep: float) -> float:
    if not 0 <= timestep <= 1:
        raise ValueError(f"timestep is {timestep:g}; allowed is a number from 0 to 1")
    return timestep


_DDPM = Family(tabulated, configured, by_time=True)
_EDM = Family(unit_variance, preconditioned)
_EULER = Family(variance_preserving, configured)
_SOLVER = Family(variance_preserving_or_flow, configured_or_flow)

FAMILIES: dict[str, Family] = {
    "CMStochasticIterativeScheduler": Family(unit_variance, consistency),
    "CogVideoXDDIMScheduler": _DDPM,
    "CogVideoXDPMScheduler": _DDPM,
    "CosineDPMSolverMultistepScheduler": _EDM,
    "DDIMInverseScheduler": Family(one_step_cleaner, configured, by_time=True),
    "DDIMParallelScheduler": _DDPM,
    "DDIMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "DDPMScheduler": _DDPM,
    "DDPMWuerstchenScheduler": Family(
        cosine, always("epsilon"), by_time=True, open_end=lambda scheduler: True
    ),
    "DEISMultistepScheduler": _SOLVER,
    "DPMSolverMultistepInverseScheduler": _SOLVER,
    "DPMSolverMultistepScheduler": _SOLVER,
    "DPMSolverSDEScheduler": Family(midpoint, configured),
    "DPMSolverSinglestepScheduler": _SOLVER,
    "EDMDPMSolverMultistepScheduler": _EDM,
    "EDMEulerScheduler": _EDM,
    "EulerAncestralDiscreteScheduler": _EULER,
    "EulerDiscreteScheduler": _EULER,
    "FlowMatchEulerDiscreteScheduler": Family(flow_or_inverted, flow_or_reversed),
    "FlowMatchHeunDiscreteScheduler": Family(flow, always("flow_prediction")),
    "FlowMatchLCMScheduler": Family(flow_with_new_noise, always("flow_prediction")),
    "HeliosScheduler": Family(one_resolution, configured_or_flow),
    "HeunDiscreteScheduler": _EULER,
    "IPNDMScheduler": Family(alphas_and_betas, always("v_prediction")),
    "KDPM2AncestralDiscreteScheduler": Family(interpolated_ancestral, configured),
    "KDPM2DiscreteScheduler": Family(interpolated, configured),
    "LCMScheduler": _DDPM,
    "LMSDiscreteScheduler": _EULER,
    "LTXEulerAncestralRFScheduler": Family(
        flow,
        always("flow_prediction"),
        open_end=lambda scheduler: len(scheduler.timesteps) == len(scheduler.sigmas),
    ),
    "MiniMaxH3Scheduler": Family(share_of_image, always("reversed_flow"), by_time=True),
    "PNDMScheduler": _DDPM,
    "RFD4ProteinaScheduler": Family(share_of_image, always("reversed_flow"), by_time=True),
    "SASolverScheduler": _SOLVER,
    "TCDScheduler": _DDPM,
    "UnCLIPScheduler": _DDPM,
    "UniPCMultistepScheduler": _SOLVER,
}

_TOKENS = "denoises discrete tokens, which have no noise level"
_SCORES = "takes scores, in steps that predict and others that correct, and lists only the first"

REFUSED: dict[str, str] = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "ConsistencyDecoderScheduler": "decodes latents inside a VAE, where nothing is guided",
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "FlowMapEulerDiscreteScheduler": "reads mean velocities to its next level, not to an image",
    "HeliosDMDScheduler": "is told its noise levels only after the network has been evaluated",
    "KarrasVeScheduler": "has its noise level raised by the pipeline before each evaluation",
    "PiflowScheduler": "reads several velocities from one output, hence no single clean image",
    "RePaintScheduler": "lists timesteps at which it adds noise and evaluates nothing",
    "SCMScheduler": "is given what Sana-Sprint's pipeline makes of the network's output",
    "ScoreSdeVeScheduler": _SCORES,
    "ScoreSdeVpScheduler": _SCORES,
    "VQDiffusionScheduler": _TOKENS,
}
