"""The order of each solver, on a broad mixture with its exact denoiser: the error against steps."""

import math

import diffusers
import pytest
import tiny
import torch
from guiders.samplers import EDM, EVODiffMultistepScheduler, Mixture, sample

DOWN_TO_SIGMA_MIN = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
ORDERS = {
    "Euler": (diffusers.EulerDiscreteScheduler, {"final_sigmas_type": "sigma_min"}, 1.0),
    "Heun": (diffusers.HeunDiscreteScheduler, {}, 2.1),
    "DPM-Solver++ 1": (
        diffusers.DPMSolverMultistepScheduler, {**DOWN_TO_SIGMA_MIN, "solver_order": 1}, 1.0,
    ),
    "DPM-Solver++ 2M": (diffusers.DPMSolverMultistepScheduler, DOWN_TO_SIGMA_MIN, 2.2),
    "UniPC": (diffusers.UniPCMultistepScheduler, DOWN_TO_SIGMA_MIN, 3.2),
    # made for few steps: its coefficients do not tend to those of a second-order method
    "EVODiff": (EVODiffMultistepScheduler, DOWN_TO_SIGMA_MIN, 0.9),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_the_error_falls_with_the_order(name):
    kind, options, expected = ORDERS[name]
    generator = torch.Generator().manual_seed(0)
    exact = Mixture(torch.randn(4, 3, dtype=torch.float64, generator=generator), 0.4)
    noise = torch.randn(64, 3, dtype=torch.float64, generator=generator)
    counts, errors = (20, 40), []
    for count in counts:
        scheduler = kind(**tiny.BETAS, use_karras_sigmas=True, **options)
        scheduler.set_timesteps(count)
        scaled = name in ("Euler", "Heun")  # latents on EDM's scale
        end = float(scheduler.sigmas[-2])
        top = float(scheduler.sigmas[0])
        start = noise * (float(scheduler.init_noise_sigma) if scaled else math.hypot(top, 1))
        points = list(sample(exact, scheduler, noise=noise, num_inference_steps=count))
        there = points[-2 if name == "Heun" else -1].x * (1 if scaled else math.hypot(end, 1))
        many = EDM(sigma_max=top, sigma_min=end)
        truth = list(sample(exact, many, x=start, num_inference_steps=200))[-2].x
        errors.append(float((there - truth).norm()))
    slope = math.log2(errors[0] / errors[1])
    assert slope == pytest.approx(expected, abs=0.3)
