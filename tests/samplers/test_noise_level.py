"""What reading a scheduler promises: which evaluation is meant, and what is refused in words."""

import diffusers
import pytest
import tiny
import torch
from guiders import clean_image, read_level
from guiders.guidance import Level, Readout
from guiders.samplers import (
    READOUTS,
    is_supported,
    position,
    readout_at,
    solver_stage,
    steps_ahead,
    why_refused,
)

pytestmark = pytest.mark.quick


def make(name, **options):
    """A scheduler with five steps, and the betas of Stable Diffusion where it has betas."""
    kind = getattr(diffusers, f"{name}Scheduler")
    scheduler = kind(**{**(tiny.BETAS if hasattr(kind(), "betas") else {}), **options})
    scheduler.set_timesteps(5)
    return scheduler


def test_flow_matching():
    scheduler = make("FlowMatchEulerDiscrete")
    image, noise = torch.randn(2, 1, 4, 8, 8)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = (1 - sigma) * image + sigma * noise
        torch.testing.assert_close(clean_image(scheduler, noise - image, t, x), image)
        scheduler.step(noise - image, t, x)


def test_inverted_sigmas_count_the_image():
    scheduler = make("FlowMatchEulerDiscrete", invert_sigmas=True)
    levels = [step.level for step in steps_ahead(scheduler, scheduler.timesteps[0])]
    assert levels[0] == Level(0.0, 1.0)
    assert levels == [Level(float(s), 1 - float(s)) for s in scheduler.sigmas[:-1]]


def test_a_shift_that_rounds_above_1_leaves_no_negative_signal():
    scheduler = make("FlowMatchEulerDiscrete")
    scheduler.sigmas[0] = 1 + 2**-23
    assert read_level(scheduler, scheduler.timesteps[0]).level.alpha == 0


def test_pndm_repeats_one_step_and_its_runge_kutta_warm_up_three():
    fast, slow = make("PNDM", skip_prk_steps=True), make("PNDM")
    assert [solver_stage(fast, i) for i in range(5)] == [0, 1, 0, 0, 0]
    assert [solver_stage(slow, i) for i in range(14)] == [0, 1, 2, 3] * 3 + [0, 0]


def test_a_timestep_is_found_wherever_the_scheduler_is():
    scheduler = make("EulerDiscrete")
    before = [read_level(scheduler, t) for t in scheduler.timesteps]
    x = torch.randn(1, 4, 8, 8)
    for t in scheduler.timesteps:
        x = scheduler.step(scheduler.scale_model_input(x, t) * 0, t, x).prev_sample
        assert [read_level(scheduler, t) for t in scheduler.timesteps] == before
    with pytest.raises(ValueError, match="timestep is 123; allowed is one of"):
        read_level(scheduler, 123)


def test_of_equal_timesteps_the_one_that_the_scheduler_is_at_is_meant():
    """Flow sigmas as whole timesteps: several steps can have the same."""
    scheduler = make(
        "UniPCMultistep", use_flow_sigmas=True, flow_shift=12.0, prediction_type="flow_prediction"
    )
    scheduler.set_timesteps(100)
    scheduler.set_begin_index(0)
    ahead = steps_ahead(scheduler, scheduler.timesteps[0])
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    x = torch.randn(1, 4, 8, 8)
    for step, t, sigma in zip(ahead, scheduler.timesteps, scheduler.sigmas, strict=False):
        assert read_level(scheduler, t).level == step.level == Level(1 - float(sigma), float(sigma))
        x = scheduler.step(x * 0, t, x).prev_sample


def test_equal_timesteps_begin_where_the_scheduler_would():
    scheduler = make("HeunDiscrete")
    t = scheduler.timesteps[1]
    first = position(scheduler, t)
    scheduler.scale_model_input(torch.zeros(1), t)
    assert scheduler.step_index == first == 2


def test_the_position_is_where_the_scheduler_is():
    scheduler = make("FlowMatchEulerDiscrete")
    t = scheduler.timesteps[3]
    assert position(scheduler, t) == 3
    assert position(scheduler, t / 1000) == 0  # not one of the scheduler's, nor is its own known
    scheduler.set_begin_index(2)
    for foreign in (t / 1000, 1 - t / 1000, t.to(torch.bfloat16), 1.0):
        assert position(scheduler, foreign) == 2
    scheduler.step(torch.zeros(1), scheduler.timesteps[2], torch.zeros(1))
    assert position(scheduler, 0.5) == 3
    assert [one.level.std for one in steps_ahead(scheduler, 0.5)] == [
        float(s) for s in scheduler.sigmas[3:-1]
    ]
    with pytest.raises(ValueError, match=r"timestep is 0\.5; allowed is one of"):
        read_level(scheduler, 0.5)


def test_schedulers_without_a_position_go_by_the_timestep():
    scheduler = make("DDIM", clip_sample=False)
    assert position(scheduler, scheduler.timesteps[3]) == 3
    assert position(scheduler, 0.601) == 0


def test_a_last_timestep_that_only_a_step_leads_to_is_no_evaluation():
    wuerstchen = make("DDPMWuerstchen")
    assert [len(wuerstchen.timesteps), len(steps_ahead(wuerstchen, 1.0))] == [6, 5]
    ltx = diffusers.LTXEulerAncestralRFScheduler()
    ltx.set_timesteps(sigmas=[1.0, 0.5, 0.0])
    assert [step.sigma for step in steps_ahead(ltx, 1000.0)] == [float("inf"), 1.0]
    ltx.set_timesteps(5)
    assert len(steps_ahead(ltx, 1000.0)) == 5


def test_one_timestep_for_each_row_is_one_timestep():
    scheduler = make("DDIM", clip_sample=False)
    t = scheduler.timesteps[1]
    assert read_level(scheduler, t.repeat(4)) == read_level(scheduler, t)
    assert position(scheduler, t.repeat(2, 7)) == 1
    mixed = torch.tensor([[0, 600, 600]])  # an image given, and the rest denoised
    for ask in (read_level, position, steps_ahead):
        with pytest.raises(ValueError, match="2 different values; allowed is the same noise level"):
            ask(scheduler, mixed)


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="sample has 4 rows and output 2"):
        clean_image(make("DDIM"), torch.zeros(2, 4, 8, 8), 600, torch.zeros(4, 4, 8, 8))


@pytest.mark.parametrize(
    ("name", "timestep", "message"),
    [
        ("DDIM", 5000, "timestep is 5000; allowed is a whole number from 0 to 999"),
        ("DDIM", 0.6, "timestep is 0.6; allowed is a whole number from 0 to 999"),
        ("DDPMWuerstchen", 999, "timestep is 999; allowed is a number from 0 to 1"),
        ("MiniMaxH3", 999, "timestep is 999; allowed is a number from 0 to 1"),
        ("EDMEuler", 999, "timestep is 999; allowed is one of the scheduler's: 1.09"),
    ],
)
def test_timesteps_of_another_scale_are_refused(name, timestep, message):
    with pytest.raises(ValueError, match=message):
        read_level(make(name), timestep)


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
INVERTED = "invert_sigmas of .* is True; allowed is False where each step adds noise"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("DDIM", {"prediction_type": "x"}, "'x'; allowed is one of epsilon, v_prediction, sample"),
        (
            "DPMSolverMultistep",
            {"prediction_type": "flow_prediction"},
            "sample, and flow_prediction with use_flow_sigmas=True",
        ),
        (
            "DPMSolverMultistep",
            {**FLOW, "use_karras_sigmas": True},
            "a flow sigma of .* is 14.6.*; allowed is a number from 0 to 1",
        ),
        ("EDMDPMSolverMultistep", {"prediction_type": "sample"}, "allowed is one of epsilon, v"),
        ("FlowMatchLCM", {"invert_sigmas": True}, INVERTED),
        ("FlowMatchEulerDiscrete", {"invert_sigmas": True, "stochastic_sampling": True}, INVERTED),
    ],
)
def test_settings_without_a_meaning_are_refused(name, options, message):
    scheduler = make(name, **options)
    with pytest.raises(ValueError, match=message):
        read_level(scheduler, scheduler.timesteps[0])


def test_a_pyramid_is_refused():
    scheduler = diffusers.HeliosScheduler()
    scheduler.set_timesteps(5, stage_index=0)
    with pytest.raises(ValueError, match="HeliosScheduler has 3 stages; allowed is 1"):
        read_level(scheduler, scheduler.timesteps[0])


def test_a_scheduler_that_was_not_set_is_refused():
    with pytest.raises(ValueError, match="MiniMaxH3Scheduler has no timesteps; call set_timesteps"):
        steps_ahead(diffusers.MiniMaxH3Scheduler(), 1)


def test_what_cannot_be_read_is_said():
    class Own(diffusers.DDIMScheduler):
        """A subclass is read as what it derives from."""

    class Other:
        """Not of Diffusers."""

    assert is_supported(Own())
    assert why_refused(Own()) == ""
    assert not is_supported(Other())
    assert why_refused(Other()).startswith("scheduler is a Other; allowed is one of CMStochastic")
    with pytest.raises(
        ValueError, match=r"a SCMScheduler, which .*; allowed is one of CMStochastic"
    ):
        read_level(diffusers.SCMScheduler(), 1)


def test_zero_terminal_snr():
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    zero = make("DDIM", **options)
    with pytest.raises(ValueError, match="DDIMScheduler is 'epsilon' at a level without signal"):
        read_level(zero, zero.timesteps[0])
    zero = make("DDIM", prediction_type="v_prediction", **options)
    reading = read_level(zero, zero.timesteps[0])
    assert [reading.level, reading.readout] == [Level(0.0, 1.0), Readout(0.0, -1.0)]


def test_a_readout_can_be_asked_for_by_name():
    """For networks that a pipeline reads in a way of its own, such as with the sign turned."""
    scheduler, level = make("FlowMatchEulerDiscrete"), Level(0.25, 0.75)
    assert readout_at(scheduler, level) == Readout(1.0, -0.75)
    assert readout_at(scheduler, level, "reversed_flow") == Readout(1.0, 0.75)
    assert all(readout_at(scheduler, level, name) for name in READOUTS)
    with pytest.raises(ValueError, match="prediction_type is 'eps'; allowed is one of epsilon, v"):
        readout_at(scheduler, level, "eps")


def test_what_is_no_number_and_no_tensor_is_said():
    scheduler, x = tiny.scheduler("ddim"), torch.zeros(1, 4, 8, 8)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="timestep is 'x'; allowed is a number"):
        read_level(scheduler, "x")
    with pytest.raises(ValueError, match="output is None; allowed is a tensor"):
        clean_image(scheduler, None, scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="sample is None; allowed is a tensor"):
        clean_image(scheduler, x, scheduler.timesteps[0], None)
