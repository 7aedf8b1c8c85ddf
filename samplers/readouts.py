"""How a network's output is read as a clean image: every parameterisation is linear.

With x as the network sees it, ``x0 = skip * x + gain * output``. The clipping and thresholding that
a scheduler may do to its own x0 comes after that, and is left to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..guidance import Level, Readout

READOUTS: dict[str, Callable[[Level], Readout]] = {
    "epsilon": lambda level: Readout(1 / level.alpha, -level.std / level.alpha),
    "v_prediction": lambda level: Readout(level.alpha, -level.std),
    "sample": lambda level: Readout(0.0, 1.0),
    "flow_prediction": lambda level: Readout(1.0, -level.std),  # noise - x0
    "reversed_flow": lambda level: Readout(1.0, level.std),  # x0 - noise
}

Reader = Callable[[Any, Level], Readout]  # (scheduler, level) to readout


def always(prediction: str) -> Reader:
    """Schedulers that know one parameterisation only."""
    return lambda scheduler, level: READOUTS[prediction](level)


def configured(scheduler: Any, level: Level) -> Readout:
    """Schedulers whose configuration says what the network predicts."""
    return READOUTS[_prediction(scheduler, "epsilon", "v_prediction", "sample")](level)


def configured_or_flow(scheduler: Any, level: Level) -> Readout:
    """The same, and a flow where the scheduler is set to flow sigmas."""
    flow = ["flow_prediction"] if scheduler.config.use_flow_sigmas else []
    return READOUTS[_prediction(scheduler, "epsilon", "v_prediction", "sample", *flow)](level)


def flow_or_reversed(scheduler: Any, level: Level) -> Readout:
    """Flows that lead to the noise, or to the image where the sigmas are inverted."""
    name = "reversed_flow" if scheduler.config.invert_sigmas else "flow_prediction"
    return READOUTS[name](level)


def preconditioned(scheduler: Any, level: Level) -> Readout:
    """EDM: ``x0 = c_skip * y + c_out * output``, where the network sees ``x = c_in * y``."""
    sign = {"epsilon": 1, "v_prediction": -1}[_prediction(scheduler, "epsilon", "v_prediction")]
    data = scheduler.config.sigma_data
    spread = math.hypot(level.edm, data)  # 1 / c_in
    return Readout(data**2 / spread, sign * level.edm * data / spread)


def consistency(scheduler: Any, level: Level) -> Readout:
    """Consistency models: EDM's preconditioning, shifted so that x0 is y at the lowest level."""
    data, above = scheduler.config.sigma_data, level.edm - scheduler.config.sigma_min
    spread = math.hypot(level.edm, data)  # 1 / c_in
    return Readout(data**2 / (above**2 + data**2) * spread, above * data / spread)


def _prediction(scheduler: Any, *allowed: str) -> str:
    name = str(scheduler.config.prediction_type)
    if name not in allowed:
        hint = ", and flow_prediction with use_flow_sigmas=True" * (name == "flow_prediction")
        raise ValueError(
            f"scheduler: the prediction_type of {type(scheduler).__name__} is {name!r}; "
            f"allowed is one of {', '.join(allowed)}{hint}"
        )
    return name
