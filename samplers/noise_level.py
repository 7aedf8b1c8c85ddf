"""The noise level and the clean image, read from a Diffusers scheduler before it steps.

``read_level(scheduler, timestep)`` answers what Diffusers itself does not: which alpha and sigma
the latents have that a denoiser is about to see, and how its output is turned into x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..guidance import Level, Readout, Step


@dataclass(frozen=True)
class Reading:
    """What a scheduler says about the latents a denoiser is about to see.

    Attributes:
        level: alpha and sigma of ``x``, the network's input.
        readout: how the network's output becomes x0.
    """

    level: Level
    readout: Readout


def read_level(scheduler: Any, timestep: Tensor | float) -> Reading:
    """Read a scheduler after ``set_timesteps`` and before ``step``.

    Args:
        scheduler: a scheduler of Diffusers, or a subclass of one.
        timestep: an element of ``scheduler.timesteps``. Where it stands there more than once, as
            for solvers of second order, the one that the scheduler is at is meant.

    Raises:
        ValueError: the scheduler's class or its prediction type is not supported, or the timestep
            is not one of the scheduler's.
    """
    family = _family(scheduler)
    index = 0 if family is _alphas else _index(scheduler, timestep)  # _alphas needs the time alone
    level = family(scheduler, index, float(timestep))
    return Reading(level, readout_at(scheduler, level))


def readout_at(scheduler: Any, level: Level, prediction_type: str = "") -> Readout:
    """How a network's output is read at a level; "" is the scheduler's own prediction type."""
    prediction = prediction_type or _prediction_type(scheduler)
    if prediction == "epsilon" and level.alpha == 0:
        raise ValueError(
            f"scheduler: the prediction_type of {type(scheduler).__name__} is 'epsilon' at a level "
            "without signal; allowed is 'v_prediction' or 'sample' with zero terminal SNR"
        )
    return READOUTS[prediction](level)


def clean_image(scheduler: Any, output: Tensor, timestep: Tensor | float, sample: Tensor) -> Tensor:
    """The clean image x0 (B, ...) behind a network's output, for any supported scheduler.

    Args:
        output: the network's output (B, ...).
        timestep: the element of ``scheduler.timesteps`` it belongs to.
        sample: what the network saw, (B, ...), that is after ``scale_model_input``.
    """
    if len(output) != len(sample):
        raise ValueError(
            f"sample has {len(sample)} rows and output {len(output)}; allowed are the same rows, "
            "as the network saw and answered them"
        )
    return read_level(scheduler, timestep).readout.x0(sample, output)


def steps_ahead(scheduler: Any, timestep: Tensor | float, count: int | None = None) -> list[Step]:
    """The evaluations of a run whose first one is at ``timestep``, before any of them is made.

    Args:
        count: how many there are; ``None`` is up to the scheduler's last timestep.
    """
    family, first = _family(scheduler), _index(scheduler, timestep)
    times = scheduler.timesteps.tolist()[first:][:count]
    levels = [family(scheduler, first + i, t) for i, t in enumerate(times)]
    return [
        Step(i, len(levels), solver_stage(scheduler, i), level) for i, level in enumerate(levels)
    ]


def solver_stage(scheduler: Any, count: int) -> int:
    """0 if evaluation number ``count`` of a run begins a solver step, above if it continues one."""
    if hasattr(scheduler, "state_in_first_order"):  # Heun, KDPM2
        return count % 2
    if hasattr(scheduler, "prk_timesteps"):  # PNDM: one repeated step, or three Runge-Kutta steps
        if scheduler.config.skip_prk_steps:
            return int(count == 1)
        return count % 4 if count < len(scheduler.prk_timesteps) else 0
    return 0


def is_supported(scheduler: Any) -> bool:
    """Can ``read_level`` read this scheduler?"""
    return any(base.__name__ in FAMILIES for base in type(scheduler).__mro__)


Family = Callable[[Any, int, float], Level]  # scheduler, index in its timesteps, timestep


def _family(scheduler: Any) -> Family:
    for base in type(scheduler).__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    raise ValueError(
        f"scheduler is a {type(scheduler).__name__}; allowed is one of "
        f"{', '.join(sorted(FAMILIES))}"
    )


def _prediction_type(scheduler: Any) -> str:
    flow = _family(scheduler) is _flow
    name = "flow_prediction" if flow else str(scheduler.config.prediction_type)
    if name not in READOUTS:
        raise ValueError(
            f"scheduler: the prediction_type of {type(scheduler).__name__} is {name!r}; "
            f"allowed is one of {', '.join(READOUTS)}"
        )
    return name


def _index(scheduler: Any, timestep: Tensor | float) -> int:
    """The position of ``timestep``, also before the scheduler has set its own."""
    time, times = float(timestep), scheduler.timesteps.tolist()
    for name in ("step_index", "begin_index"):
        known = getattr(scheduler, name, None)
        if known is not None and known < len(times) and times[known] == time:
            return int(known)
    if time not in times:
        raise ValueError(
            f"timestep is {time:g}; allowed is one of the scheduler's: "
            f"{', '.join(format(t, 'g') for t in dict.fromkeys(times))}"
        )
    return times.index(time)


def _alphas(scheduler: Any, index: int, timestep: float) -> Level:
    """Schedulers that look their level up by timestep."""
    if not 0 <= timestep < len(scheduler.alphas_cumprod):
        top = len(scheduler.alphas_cumprod) - 1
        raise ValueError(f"timestep is {timestep:g}; allowed is a number from 0 to {top}")
    alpha2 = float(scheduler.alphas_cumprod[int(timestep)])
    return Level(math.sqrt(alpha2), math.sqrt(1 - alpha2))


def _vp(sigma: float) -> Level:
    """The variance-preserving level of ``sigma / alpha = sigma``."""
    alpha = 1 / math.sqrt(1 + sigma * sigma)
    return Level(alpha, sigma * alpha)


def _sigmas(scheduler: Any, index: int, timestep: float) -> Level:
    """Schedulers of EDM sigmas whose network sees ``x / sqrt(1 + sigma^2)``."""
    return _vp(float(scheduler.sigmas[index]))


def _interpolated(scheduler: Any, index: int, timestep: float) -> Level:
    """KDPM2, whose second stage lies between two levels."""
    return _vp(float((scheduler.sigmas_interpol if index % 2 else scheduler.sigmas)[index]))


def _multistep(scheduler: Any, index: int, timestep: float) -> Level:
    """The DPM-Solver relatives: variance preserving, or flow with ``use_flow_sigmas``."""
    flow = getattr(scheduler.config, "use_flow_sigmas", False)
    return (_flow if flow else _sigmas)(scheduler, index, timestep)


def _flow(scheduler: Any, index: int, timestep: float) -> Level:
    """Rectified flow: ``x = (1 - sigma) * x0 + sigma * noise``."""
    sigma = float(scheduler.sigmas[index])
    return Level(1 - sigma, sigma)


READOUTS: dict[str, Callable[[Level], Readout]] = {
    "epsilon": lambda level: Readout(1 / level.alpha, -level.sigma / level.alpha),
    "v_prediction": lambda level: Readout(level.alpha, -level.sigma),
    "sample": lambda level: Readout(0.0, 1.0),
    "flow_prediction": lambda level: Readout(1.0, -level.sigma),
}

FAMILIES: dict[str, Family] = {
    "DDIMScheduler": _alphas,
    "DDPMScheduler": _alphas,
    "PNDMScheduler": _alphas,
    "EulerDiscreteScheduler": _sigmas,
    "EulerAncestralDiscreteScheduler": _sigmas,
    "HeunDiscreteScheduler": _sigmas,
    "LMSDiscreteScheduler": _sigmas,
    "KDPM2DiscreteScheduler": _interpolated,
    "DPMSolverMultistepScheduler": _multistep,
    "DPMSolverSinglestepScheduler": _multistep,
    "DEISMultistepScheduler": _multistep,
    "UniPCMultistepScheduler": _multistep,
    "FlowMatchEulerDiscreteScheduler": _flow,
}
