"""Every scheduler of Diffusers, built without what is random or clips."""

import functools
import importlib
import importlib.util
import inspect
import sys
import types
from unittest import mock

import diffusers
import tiny
import torch

SDE = {
    "CosineDPMSolverMultistepScheduler": "scheduling_cosine_dpmsolver_multistep",
    "DPMSolverSDEScheduler": "scheduling_dpmsolver_sde",
}
SLOW = ("DPMSolverSDEScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler")
WUERSTCHEN, PROTEINA = "DDPMWuerstchenScheduler", "RFD4ProteinaScheduler"


class White:
    """Stands in for torchsde's Brownian motion, which only adds noise."""

    def __init__(self, size, dtype, **_):
        self.size, self.dtype = size, dtype

    def __call__(self, start, end):
        return torch.randn(self.size, dtype=self.dtype) * abs(end - start) ** 0.5


@functools.cache
def scheduler_class(name):
    if name not in SDE or importlib.util.find_spec("torchsde"):
        return getattr(diffusers.schedulers, name)
    torchsde = types.ModuleType("torchsde")
    torchsde.BrownianInterval = White
    with mock.patch.dict(sys.modules, {"torchsde": torchsde}):
        return getattr(importlib.import_module(f"diffusers.schedulers.{SDE[name]}"), name)


@functools.cache
def accepted(name):
    return set(inspect.signature(scheduler_class(name).__init__).parameters)


# What takes clipping and randomness out, wherever a scheduler has the option.
PLAIN = {
    **tiny.BETAS,
    "clip_sample": False,
    "clip_denoised": False,
    "set_alpha_to_one": True,
    "skip_prk_steps": True,
    "stages": 1,
}
SPECIAL = {
    PROTEINA: {
        "schedule_mode": "power", "noise_mode": "1/t", "tsr_k": 1.0, "tsr_sigma": 1.0,
        "tail_steps": 0, "t_lim_ode": 0.0,
    },
    "CMStochasticIterativeScheduler": {"s_noise": 0.0},  # a step ends at x0
    "LCMScheduler": {"timestep_scaling": 1e6},  # so does this one
    **{name: {"num_train_timesteps": 200} for name in SLOW},
    "LTXEulerAncestralRFScheduler": {"eta": 0.0},
    "SASolverScheduler": {"tau_func": lambda t: 0},  # without noise
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
}  # fmt: skip


@functools.cache
def built(name, options):
    given = {**{k: v for k, v in PLAIN.items() if k in accepted(name)}, **SPECIAL.get(name, {})}
    return scheduler_class(name)(**{**given, **dict(options)})
