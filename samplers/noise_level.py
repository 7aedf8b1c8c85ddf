"""The noise level and the clean image, read from a Diffusers scheduler before it steps.

``read_level(scheduler, timestep)`` answers what Diffusers itself does not: which alpha and sigma
the latents have that a denoiser is about to see, and how its output is turned into x0.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..guidance import Level, Readout, Step
from .families import FAMILIES, REFUSED, Family
from .readouts import READOUTS


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
        timestep: an element of ``scheduler.timesteps``, or several equal ones. Where it stands
            there more than once, as for solvers of second order, the one that the scheduler is at
            is meant.

    Raises:
        ValueError: the scheduler's class or its settings are not supported, or the timestep is not
            one of the scheduler's.
    """
    family, time = _family(scheduler), _number(timestep)
    index = 0 if family.by_time else _index(scheduler, time)
    level = family.level(scheduler, index, time)
    return Reading(level, readout_at(scheduler, level))


def readout_at(scheduler: Any, level: Level, prediction_type: str = "") -> Readout:
    """How a network's output is read at a level.

    Args:
        prediction_type: one of ``READOUTS``, for a network without preconditioning; "" is what the
            scheduler takes its network to predict.

    Raises:
        ValueError: the prediction type is not one that the scheduler knows, or it divides by an
            alpha of 0.
    """
    if prediction_type not in ("", *READOUTS):
        raise ValueError(
            f"prediction_type is {prediction_type!r}; allowed is one of {', '.join(READOUTS)}"
        )
    try:
        if prediction_type:
            return READOUTS[prediction_type](level)
        return _family(scheduler).readout(scheduler, level)
    except ZeroDivisionError:
        raise ValueError(
            f"scheduler: the prediction_type of {type(scheduler).__name__} is 'epsilon' at a level "
            "without signal; allowed is 'v_prediction' or 'sample' with zero terminal SNR"
        ) from None


def clean_image(scheduler: Any, output: Tensor, timestep: Tensor | float, sample: Tensor) -> Tensor:
    """The clean image x0 (B, ...) behind a network's output, for any supported scheduler.

    It is what the scheduler takes it for, before any clipping.

    Args:
        output: the network's output (B, ...).
        timestep: the element of ``scheduler.timesteps`` it belongs to.
        sample: what the network saw, (B, ...), that is after ``scale_model_input``.
    """
    for name, value in (("output", output), ("sample", sample)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is {value!r}; allowed is a tensor (B, ...)")
    if len(output) != len(sample):
        raise ValueError(
            f"sample has {len(sample)} rows and output {len(output)}; allowed are the same rows, "
            "as the network saw and answered them"
        )
    return read_level(scheduler, timestep).readout.x0(sample, output)


def steps_ahead(scheduler: Any, timestep: Tensor | float, count: int | None = None) -> list[Step]:
    """The evaluations of a run of which the next is the first, before any of them is made.

    Args:
        timestep: what the network is told; see ``position``.
        count: how many there are; ``None`` is up to the scheduler's last timestep.
    """
    family, first = _family(scheduler), position(scheduler, timestep)
    times = _times(scheduler)
    if family.open_end(scheduler):
        times = times[:-1]
    total = len(times[first:][:count])
    levels: list[Level | None] = [
        family.level(scheduler, first + i, t) for i, t in enumerate(times[first:][: total + 1])
    ]
    if len(levels) == total:
        levels.append(_end(scheduler, family, len(times)))
    return [
        Step(i, total, solver_stage(scheduler, i), level, after)
        for i, (level, after) in enumerate(pairwise(levels))
        if level is not None
    ]


def _end(scheduler: Any, family: Family, index: int) -> Level | None:
    """The level that the last step leads to; ``None`` is the clean image."""
    if hasattr(scheduler, "final_alpha_cumprod"):
        alpha2 = float(scheduler.final_alpha_cumprod)
        return Level(math.sqrt(alpha2), math.sqrt(1 - alpha2))
    if not family.by_time and len(getattr(scheduler, "sigmas", ())) == index + 1:
        return family.level(scheduler, index, 0.0)
    return None


def position(scheduler: Any, timestep: Tensor | float) -> int:
    """Where in ``scheduler.timesteps`` the next evaluation is.

    That is where the scheduler is, or will begin. Where it does not know, ``timestep`` says it, and
    0 is meant if that is not one of the scheduler's: some networks are told it in a unit of their
    own, such as ``t / 1000`` or ``1 - t / 1000``.
    """
    time, times = _number(timestep), _times(scheduler)
    known = _known(scheduler)
    if known is not None and known < len(times):
        return known
    return _index(scheduler, time) if time in times else 0


def solver_stage(scheduler: Any, count: int) -> int:
    """0 if evaluation number ``count`` of a run begins a solver step, above if it continues one.

    DPM-Solver's single-step variant counts each evaluation as a step of its own, and so does this.
    """
    if hasattr(scheduler, "state_in_first_order"):  # Heun, KDPM2, DPM-Solver SDE
        return count % 2
    if hasattr(scheduler, "prk_timesteps"):  # PNDM: one repeated step, or three Runge-Kutta steps
        if scheduler.config.skip_prk_steps:
            return int(count == 1)
        return count % 4 if count < len(scheduler.prk_timesteps) else 0
    return 0


def is_first_order(scheduler: Any) -> bool:
    """Is each step of this scheduler made from its own evaluation alone?"""
    order = getattr(scheduler.config, "solver_order", None)
    if order is not None:
        return order == 1
    names = ("DDIM", "DDPM", "Euler", "LCM", "TCD", "ConsistencyModel", "CMStochastic")
    return any(word in _name(scheduler) for word in names)


def adds_noise(scheduler: Any, eta: float = 0.0) -> bool:
    """Does a step of this scheduler draw noise?

    Args:
        eta: as its ``step`` is given it.
    """
    name, config = _name(scheduler), scheduler.config
    drawn = ("Ancestral", "DDPM", "LCM", "SDE", "UnCLIP", "TCD", "CMStochastic", "CogVideoXDPM")
    kinds = ("sde-dpmsolver", "sde-dpmsolver++")
    return (
        any(word in name for word in drawn)
        or getattr(config, "algorithm_type", None) in kinds
        or bool(getattr(config, "stochastic_sampling", False))
        or (eta > 0 and "DDIM" in name)
        or "SASolver" in name
    )


def is_supported(scheduler: Any) -> bool:
    """Can ``read_level`` read this scheduler?"""
    return _name(scheduler) in FAMILIES


def why_refused(scheduler: Any) -> str:
    """Why ``read_level`` cannot read this scheduler, in a sentence; "" if it can."""
    name = _name(scheduler)
    if name in FAMILIES:
        return ""
    reason = f", which {REFUSED[name]}" if name else ""
    return (
        f"scheduler is a {type(scheduler).__name__}{reason}; allowed is one of "
        f"{', '.join(sorted(FAMILIES))}"
    )


def _name(scheduler: Any) -> str:
    """The nearest class of a scheduler that is known, supported or not; "" if there is none."""
    kind = type(scheduler)
    if kind not in _NAMES:
        names = (base.__name__ for base in kind.__mro__)
        _NAMES[kind] = next((name for name in names if name in FAMILIES or name in REFUSED), "")
    return _NAMES[kind]


_NAMES: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def _family(scheduler: Any) -> Family:
    if not is_supported(scheduler):
        raise ValueError(why_refused(scheduler))
    return FAMILIES[_name(scheduler)]


def _number(timestep: Tensor | float) -> float:
    """A timestep as one number, which holds for the whole batch."""
    if isinstance(timestep, Tensor) and timestep.numel() != 1:
        values = timestep.unique().tolist()
        if len(values) != 1:
            raise ValueError(
                f"timestep has {len(values)} different values; allowed is the same noise level "
                "for all images, and within each"
            )
        return float(values[0])
    try:
        return float(timestep)
    except (TypeError, ValueError):
        raise ValueError(
            f"timestep is {timestep!r}; allowed is a number or a tensor of equal ones"
        ) from None


def _times(scheduler: Any) -> list[float]:
    if scheduler.timesteps is None:
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} has no timesteps; call set_timesteps before"
        )
    return scheduler.timesteps.tolist()


def _known(scheduler: Any) -> int | None:
    """The index that a scheduler is at, or will begin at, as far as it has been told."""
    for name in ("step_index", "begin_index"):
        known = getattr(scheduler, name, None)
        if known is not None:
            return int(known)
    return None


def _index(scheduler: Any, time: float) -> int:
    """The index of a timestep: the scheduler's own, or as it would find its own."""
    times, known = _times(scheduler), _known(scheduler)
    if known is not None and known < len(times) and times[known] == time:
        return known
    found = [i for i, t in enumerate(times) if t == time]
    if not found:
        raise ValueError(
            f"timestep is {time:g}; allowed is one of the scheduler's: "
            f"{', '.join(format(t, 'g') for t in dict.fromkeys(times))}"
        )
    # Schedulers that count begin at the second of equal timesteps, so as not to skip a level.
    return found[len(found) > 1 and hasattr(scheduler, "step_index")]
