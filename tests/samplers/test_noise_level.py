"""Noise levels and x0 against what Diffusers' own schedulers do."""

import diffusers
import pytest
import tiny
import torch
from guiders import clean_image, read_level
from guiders.samplers import noise_level, solver_stage, steps_ahead

FLOW = {"FlowMatchEulerDiscreteScheduler"}
SUPPORTED = sorted(noise_level.FAMILIES)


def make(name, prediction_type="epsilon", **options):
    if name in FLOW:
        return getattr(diffusers, name)(**options)
    betas = {**tiny.BETAS, "prediction_type": prediction_type}
    if name == "PNDMScheduler":
        options.setdefault("skip_prk_steps", True)
    return getattr(diffusers, name)(**betas, **options)


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_level_is_what_add_noise_does(name):
    """Noise of ones on an image of zeros gives sigma, an image of ones without noise alpha."""
    scheduler = make(name)
    scheduler.set_timesteps(7)
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    times = scheduler.timesteps
    if hasattr(scheduler, "state_in_first_order"):
        times = times[:1]  # add_noise of later stages is not defined
    for t in times:
        mix = scheduler.scale_noise if name in FLOW else scheduler.add_noise
        swap = name in FLOW  # scale_noise(sample, timestep, noise)
        noisy = [
            mix(x0, t[None], noise) if swap else mix(x0, noise, t[None])
            for x0, noise in ((one, zero), (zero, one))
        ]
        if hasattr(scheduler, "scale_model_input"):
            scheduler._step_index = None
            noisy = [scheduler.scale_model_input(x, t) for x in noisy]
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = None
        level = read_level(scheduler, t).level
        assert [level.alpha, level.sigma] == pytest.approx([x.item() for x in noisy], rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
def test_x0_is_the_schedulers_own(name, prediction):
    scheduler = make(name, prediction, **({} if "Euler" in name else {"clip_sample": False}))
    check(scheduler, lambda o, t, x: scheduler.step(o, t, x).pred_original_sample)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow_prediction"])
@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "DEISMultistepScheduler",
    ],
)
def test_x0_is_the_multistep_schedulers_own(name, prediction):
    scheduler = make(name, prediction, use_flow_sigmas=prediction == "flow_prediction")

    def own(output, t, x):
        if scheduler.step_index is None:
            scheduler._init_step_index(t)
        converted = scheduler.convert_model_output(output, sample=x)
        scheduler.step(output, t, x)
        return converted

    check(scheduler, own, noise=name == "DEISMultistepScheduler")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_a_perfect_prediction_gives_the_image_at_every_stage(name, prediction):
    """Given the exact output for one image, every stage must read it back."""
    scheduler = make(name, prediction)
    scheduler.set_timesteps(8)
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    x = image + scheduler.init_noise_sigma * torch.randn(image.shape)
    for count, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, t)
        level = read_level(scheduler, t).level
        eps = (seen - level.alpha * image) / level.sigma
        output = eps if prediction == "epsilon" else level.alpha * eps - level.sigma * image
        assert solver_stage(scheduler, count) == int(not scheduler.state_in_first_order)
        torch.testing.assert_close(
            clean_image(scheduler, output, t, seen), image, atol=2e-4, rtol=0
        )
        x = scheduler.step(output, t, x).prev_sample
    torch.testing.assert_close(x, image, atol=1e-4, rtol=0)


def test_flow_matching():
    scheduler = make("FlowMatchEulerDiscreteScheduler")
    scheduler.set_timesteps(5)
    image, noise = torch.randn(2, 1, 4, 8, 8)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = (1 - sigma) * image + sigma * noise
        torch.testing.assert_close(clean_image(scheduler, noise - image, t, x), image)
        scheduler.step(noise - image, t, x)


def check(scheduler, own, noise=False):
    """Ours against ``own(output, t, x)``, which is x0, or noise where the scheduler uses it."""
    scheduler.set_timesteps(6)
    generator = torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        x = torch.randn(2, 4, 8, 8, generator=generator)
        output = torch.randn(2, 4, 8, 8, generator=generator)
        scaled = scheduler.scale_model_input(x * scheduler.init_noise_sigma, t)
        ours = clean_image(scheduler, output, t, scaled)
        if noise:
            level = read_level(scheduler, t).level
            ours = (scaled - level.alpha * ours) / level.sigma
        theirs = own(output, t, x * scheduler.init_noise_sigma)
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-6


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_steps_ahead_are_the_steps_taken(name):
    scheduler = make(name)
    scheduler.set_timesteps(6)
    ahead = steps_ahead(scheduler, scheduler.timesteps[0])
    x = torch.randn(1, 4, 8, 8)
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        assert ahead[i].level == read_level(scheduler, t).level
        assert (ahead[i].index, ahead[i].total) == (i, len(scheduler.timesteps))
        x = scheduler.step(seen * 0, t, x).prev_sample
    assert sum(step.stage == 0 for step in ahead) in (6, 7 if name == "PNDMScheduler" else 6)


def test_pndm_repeats_one_step_and_its_runge_kutta_warm_up_three():
    fast, slow = make("PNDMScheduler"), make("PNDMScheduler", skip_prk_steps=False)
    fast.set_timesteps(10)
    slow.set_timesteps(10)
    assert [solver_stage(fast, i) for i in range(5)] == [0, 1, 0, 0, 0]
    assert [solver_stage(slow, i) for i in range(15)] == [0, 1, 2, 3] * 3 + [0, 0, 0]


def test_a_timestep_is_found_wherever_the_scheduler_is():
    scheduler = make("EulerDiscreteScheduler")
    scheduler.set_timesteps(5)
    before = [read_level(scheduler, t) for t in scheduler.timesteps]
    x = torch.randn(1, 4, 8, 8)
    for t in scheduler.timesteps:
        x = scheduler.step(scheduler.scale_model_input(x, t) * 0, t, x).prev_sample
        assert [read_level(scheduler, t) for t in scheduler.timesteps] == before
    with pytest.raises(ValueError, match="timestep is 123; allowed is one of"):
        read_level(scheduler, 123)


def test_what_cannot_be_read_is_said():
    ddim = make("DDIMScheduler")
    with pytest.raises(ValueError, match="timestep is 5000; allowed is a number from 0 to 999"):
        read_level(ddim, 5000)
    with pytest.raises(ValueError, match="sample has 4 rows and output 2"):
        clean_image(ddim, torch.zeros(2, 4, 8, 8), 999, torch.zeros(4, 4, 8, 8))
    scheduler = diffusers.SCMScheduler()
    with pytest.raises(ValueError, match="SCMScheduler; allowed is one of DDIMScheduler"):
        read_level(scheduler, 1)
    zero = make(
        "DDIMScheduler", "epsilon", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    zero.set_timesteps(4)
    with pytest.raises(ValueError, match="without signal"):
        read_level(zero, zero.timesteps[0])
    zero = make(
        "DDIMScheduler", "v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    zero.set_timesteps(4)
    assert read_level(zero, zero.timesteps[0]).level.alpha == 0
