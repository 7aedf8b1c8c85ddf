"""Every scheduler of Diffusers: the level and x0 that we read against its own code."""

import copy
import itertools

import diffusers
import pytest
import torch
from errors import error
from guiders import clean_image, read_level
from guiders.samplers import FAMILIES, REFUSED, families, readouts, solver_stage, steps_ahead
from schedulers import PROTEINA, WUERSTCHEN, accepted, built

SUPPORTED = sorted(FAMILIES)


def make(name, steps=6, **options):
    scheduler = copy.copy(built(name, tuple(options.items())))
    shift = {"mu": 0.7} if options.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(steps, **shift)
    return scheduler


def times(scheduler):
    """The timesteps at which a network is evaluated."""
    open_end = type(scheduler).__name__ == WUERSTCHEN
    return scheduler.timesteps[:-1] if open_end else scheduler.timesteps


def scaled(scheduler, x, t):
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def shape(scheduler):
    return (2, 6, 3) if type(scheduler).__name__ == PROTEINA else (2, 4, 4, 4)


def step(scheduler, output, t, x):
    """One step, whatever else a scheduler wants to know."""
    name = type(scheduler).__name__
    if name == "CogVideoXDPMScheduler":
        return scheduler.step(output, None, t, None, x)
    if name == WUERSTCHEN:
        return scheduler.step(output, t.expand(len(x)), x, return_dict=False)
    if name == PROTEINA:
        return scheduler.step(output, t, x, torch.ones(x.shape[:2]), return_dict=False)
    if name == "UnCLIPScheduler":
        at = scheduler.timesteps.tolist().index(t)
        before = [*scheduler.timesteps.tolist(), -1][at + 1]
        return scheduler.step(output, t, x, before, return_dict=False)
    if name == "TCDScheduler":
        return scheduler.step(output, t, x, eta=1.0, return_dict=False)
    return scheduler.step(output, t, x, return_dict=False)


# Which settings matter, for every scheduler that has them.
SPACINGS = [{"timestep_spacing": name} for name in ("linspace", "leading", "trailing")]
SIGMAS = [{f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")]
SETTINGS = [
    {},
    *SPACINGS,
    *SIGMAS,
    {"use_lu_lambdas": True},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"solver_order": 1},
    {"solver_order": 3},
    {"predictor_order": 3, "corrector_order": 4},
    {"predict_x0": False},
    {"final_sigmas_type": "sigma_min"},
    {"sigma_schedule": "karras"},
    {"sigma_schedule": "exponential"},
    {"sigma_data": 0.7},
    {"interpolation_type": "log_linear"},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "sample"},
    {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    },
    {"timestep_type": "continuous", "prediction_type": "v_prediction"},
    {"scaler": 2.0},
    {"scaler": 0.5},
    {"shift": 1.73},
    {"shift_terminal": 0.1, "shift": 3.0},
    {"use_dynamic_shifting": True, "time_shift_type": "exponential", "shift": 1.0},
    {"use_dynamic_shifting": True, "time_shift_type": "linear", "shift": 1.0},
    {"stochastic_sampling": True},
    {"skip_prk_steps": False},
    {"schedule_mode": "log"},
    {"scheduler_type": "euler"},
]
FLOWS = [
    {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": name}
    for name in ("flow_prediction", "epsilon", "sample", "v_prediction")
]
V = {"prediction_type": "v_prediction"}
OWN_SETTINGS = {
    "DPMSolverMultistepScheduler": [
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
        {**FLOWS[0], "solver_order": 3},
        {**FLOWS[0], "use_dynamic_shifting": True, "time_shift_type": "exponential"},
    ],
    "DPMSolverSinglestepScheduler": [
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ],
    "DPMSolverMultistepInverseScheduler": [{"algorithm_type": "dpmsolver"}],
    "EDMDPMSolverMultistepScheduler": [{"algorithm_type": "sde-dpmsolver++"}],
    "FlowMatchEulerDiscreteScheduler": [{"invert_sigmas": True}],
    "SASolverScheduler": [{"algorithm_type": "noise_prediction"}],
    "UniPCMultistepScheduler": [
        {**flow, **sigmas}
        for flow in FLOWS[:1]
        for sigmas in (
            {"use_karras_sigmas": True},
            {"shift_terminal": 0.1},
            {"use_dynamic_shifting": True, "time_shift_type": "exponential"},
        )
    ],
}
# What a class takes without having it.
BROKEN = {
    "CosineDPMSolverMultistepScheduler": [{"solver_order": 3}],
    "DDIMInverseScheduler": [{"timestep_spacing": "linspace"}],
    "HeliosScheduler": [{"predict_x0": False}],
    "UnCLIPScheduler": [{"prediction_type": "v_prediction"}],
    "UniPCMultistepScheduler": [{"shift_terminal": 0.1, "shift": 3.0}],
    **{
        name: [{"prediction_type": "sample"}]
        for name in (
            "DPMSolverSDEScheduler",
            "EulerAncestralDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "PNDMScheduler",
        )
    },
}
# Its levels are too high for float32 there: the timesteps have a NaN.
BROKEN["KDPM2AncestralDiscreteScheduler"].append({"beta_schedule": "squaredcos_cap_v2"})


def predictions(name):
    read = FAMILIES[name].readout
    if read in (readouts.configured, readouts.configured_or_flow) and name != "HeliosScheduler":
        return [{"prediction_type": p} for p in ("epsilon", "v_prediction", "sample")]
    if read is readouts.preconditioned:
        return [{"prediction_type": p} for p in ("epsilon", "v_prediction")]
    return []


def settings(name):
    found = [*SETTINGS, *predictions(name)]
    if FAMILIES[name].level is families.variance_preserving_or_flow:
        found += FLOWS
    found = [one for one in found if set(one) <= accepted(name)] + OWN_SETTINGS.get(name, [])
    broken = [set(one.items()) for one in BROKEN.get(name, [])]
    return [one for one in found if not any(b <= set(one.items()) for b in broken)]


CASES = [
    pytest.param(name, one, id=f"{name}-{','.join(map(str, one.values())) or 'default'}")
    for name in SUPPORTED
    for one in settings(name)
]


def test_every_scheduler_of_diffusers_is_read_or_refused():
    known = {name for name in dir(diffusers.schedulers) if name.endswith("Scheduler")}
    assert {name for name in known if not name.startswith("Flax")} == {*FAMILIES, *REFUSED}
    assert not set(FAMILIES) & set(REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refusal_names_the_scheduler_and_the_reason(name):
    derived = type("Derived", (type(name, (), {}),), {})()
    with pytest.raises(ValueError, match=f"scheduler is a Derived, which {REFUSED[name]}; allowed"):
        read_level(derived, 0)


@pytest.mark.support("schedulers")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_x0_is_the_schedulers_own(name, options):
    scheduler = make(name, **options)
    generator = torch.Generator().manual_seed(0)
    for i, t in enumerate(times(scheduler)):
        x, output = torch.randn(2, *shape(scheduler), generator=generator, dtype=torch.float64)
        x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
        seen = scaled(scheduler, x, t)
        ours = clean_image(scheduler, output, t, seen)
        theirs = own_x0(scheduler, output, t, x, i)
        if theirs is not None:
            assert error(ours, theirs) < 1e-6


def own_x0(scheduler, output, t, x, i):
    """A scheduler's own x0 by its own code, and one step on; ``None`` where it does not show it."""
    name = type(scheduler).__name__
    if name == "PNDMScheduler":
        shown = scheduler._get_prev_sample(x, t, -1, output)  # straight to an alpha of 1
    elif name == "TCDScheduler":
        shown = to_the_end(scheduler, output, t, x, i)[1]
    elif hasattr(scheduler, "convert_model_output") and not is_euler(scheduler):
        shown = converted(scheduler, output, t, x)
    elif name in ENDING or is_euler(scheduler):
        shown = to_the_end(scheduler, output, t, x, i)[0]
        if name == "FlowMatchHeunDiscreteScheduler" and not scheduler.state_in_first_order:
            shown = None  # a mean of two: the next test is for these
        if name == "IPNDMScheduler" and i == 0:
            shown = None  # it does not use the first output
    else:
        return step(scheduler, output, t, x)[1]  # pred_original_sample, or LCM's denoised
    step(scheduler, output, t, x)
    return shown


ENDING = {
    "CMStochasticIterativeScheduler", "DDPMWuerstchenScheduler", "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "IPNDMScheduler",
    "LTXEulerAncestralRFScheduler", "MiniMaxH3Scheduler", "RFD4ProteinaScheduler",
}  # fmt: skip


def is_euler(scheduler):
    return scheduler.config.get("scheduler_type") == "euler"


def converted(scheduler, output, t, x):
    """``convert_model_output``, which is x0, or noise where the solver works with it."""
    if scheduler.step_index is None:
        getattr(scheduler, "_init_step_index", lambda t: None)(t)
        scheduler._step_index = scheduler._step_index or 0
    shown = scheduler.convert_model_output(output, sample=x)
    noise = ("deis", "dpmsolver", "sde-dpmsolver", "noise_prediction")
    if scheduler.config.get("algorithm_type") in noise or not scheduler.config.get(
        "predict_x0", True
    ):
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index])
        return (x - sigma * shown) / alpha
    return shown


def to_the_end(scheduler, output, t, x, i):
    """A step of a copy whose next level is the image: where it arrives is its x0."""
    copied, name = copy.copy(scheduler), type(scheduler).__name__
    if name == "TCDScheduler":
        copied.alphas_cumprod = changed(scheduler.alphas_cumprod, 0, 1)
    elif name == "IPNDMScheduler":
        copied.ets = []
        copied.alphas = changed(scheduler.alphas, i + 1, 1)
        copied.betas = changed(scheduler.betas, i + 1, 0)
    elif name == PROTEINA:
        copied._times = changed(scheduler._times, i + 1, 1)
    elif name == WUERSTCHEN:
        copied.timesteps = changed(scheduler.timesteps, i + 1, 0)
        table = scheduler._alpha_cumprod
        copied._alpha_cumprod = lambda at, device: torch.where(at > 0, table(at, device), 1.0)
    elif name != "CMStochasticIterativeScheduler":
        last = float(scheduler.config.get("invert_sigmas", False))
        copied.sigmas = changed(scheduler.sigmas, i + 1, last)
    return step(copied, output, t, x)


def changed(table, index, value):
    table = table.clone()
    table[index] = value
    return table


RANDOM = {
    "CMStochasticIterativeScheduler", "CogVideoXDPMScheduler", "CosineDPMSolverMultistepScheduler",
    "DDPMParallelScheduler", "DDPMScheduler", "DDPMWuerstchenScheduler", "DPMSolverSDEScheduler",
    "EulerAncestralDiscreteScheduler", "FlowMatchLCMScheduler", "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler", "TCDScheduler", "UnCLIPScheduler",
}  # fmt: skip
ENDS_NOISY = {  # at the lowest level of the training or the highest, or rounds there
    "DDIMInverseScheduler", "DDPMWuerstchenScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler", "SASolverScheduler", "TCDScheduler", "UnCLIPScheduler",
}  # fmt: skip
PERFECT = [
    *((name, {}) for name in SUPPORTED),
    *((name, V) for name in SUPPORTED if V in settings(name) and name != "PNDMScheduler"),
    *((name, FLOWS[0]) for name in SUPPORTED if FLOWS[0] in settings(name)),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    ("HeliosScheduler", {"scheduler_type": "euler"}),
    ("PNDMScheduler", {"skip_prk_steps": False}),
]


@pytest.mark.support("schedulers")
@pytest.mark.parametrize(("name", "options"), PERFECT)
def test_a_perfect_network_leads_to_the_image_through_the_levels(name, options):
    """With the output that means the image, the scheduler's steps make just the levels we read."""
    scheduler = make(name, 10, **options)
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, *shape(scheduler), generator=generator)
    first = int(name == "IPNDMScheduler")  # its first step does not use the output
    if first:
        scheduler.set_begin_index(first)
    x = None
    for count, t in enumerate(times(scheduler)[first:]):
        level, readout = (reading := read_level(scheduler, t)).level, reading.readout
        path = level.alpha * image + level.std * noise
        x = path / scaled(scheduler, torch.ones(()), t) if x is None else x
        seen = scaled(scheduler, x, t)
        if name not in RANDOM:
            torch.testing.assert_close(seen, path, atol=2e-4, rtol=0)
        if hasattr(scheduler, "state_in_first_order"):
            assert solver_stage(scheduler, count) == int(not scheduler.state_in_first_order)
        output = (image - readout.skip * seen) / readout.gain if readout.gain else noise
        x = step(scheduler, output, t, x)[0]
    if name not in ENDS_NOISY:
        torch.testing.assert_close(x, image, atol=2e-4, rtol=0)


@pytest.mark.support("schedulers")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_level_is_what_the_scheduler_mixes(name, options):
    """Noise of ones on an image of zeros gives sigma, an image of ones without noise alpha."""
    scheduler = make(name, **options)
    mix = getattr(scheduler, "add_noise", getattr(scheduler, "scale_noise", None))
    by_training_time = name == "SASolverScheduler" and any(
        key.startswith("use_") for key in options
    )
    if mix is None or options.get("invert_sigmas") or by_training_time:
        return
    one = torch.ones(1, *shape(scheduler)[1:], dtype=torch.float64)
    zero = torch.zeros_like(one)
    every = 2 if hasattr(scheduler, "state_in_first_order") else 1  # second stages are not mixed
    for t in times(scheduler)[::every]:
        mixed = []
        for image, noise in ((one, zero), (zero, one)):
            fresh = copy.copy(scheduler)
            if hasattr(scheduler, "add_noise"):
                x = fresh.add_noise(image, noise, t[None])
            elif name == "FlowMatchHeunDiscreteScheduler":
                x = fresh.scale_noise(image, t, noise)
            else:
                x = fresh.scale_noise(image, t[None], noise)
            mixed.append(scaled(fresh, x, t).mean().item())
        level = read_level(scheduler, t).level
        assert [level.alpha, level.std] == pytest.approx(mixed, rel=1e-6, abs=1e-7)


@pytest.mark.support("schedulers")
@pytest.mark.parametrize("name", SUPPORTED)
def test_the_steps_ahead_are_the_steps_taken(name):
    scheduler = make(name)
    ahead = steps_ahead(scheduler, times(scheduler)[0])
    assert [one.index for one in ahead] == list(range(len(times(scheduler))))
    x = torch.randn(shape(scheduler))
    for one, t in zip(ahead, times(scheduler), strict=True):
        seen = scaled(scheduler, x, t)
        assert one.level == read_level(scheduler, t).level
        x = step(scheduler, seen * 0, t, x)[0]
    steps = getattr(scheduler, "num_inference_steps", 6)
    assert sum(one.stage == 0 for one in ahead) == steps
    assert ahead[0].total == len(ahead)
    backwards = name in ("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler")
    sigmas = [one.sigma for one in ahead][:: -1 if backwards else 1]
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(sigmas))


@pytest.mark.support("schedulers")
@pytest.mark.parametrize("name", sorted({*SUPPORTED} - {PROTEINA}))  # which begins at 0 only
def test_a_late_start_is_planned_from_there(name):
    """As in image to image: from a position that is set, else from the timestep."""
    scheduler = make(name)
    t = times(scheduler)[2]
    whole = steps_ahead(scheduler, times(scheduler)[0])
    late = steps_ahead(scheduler, t)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(2)
        assert steps_ahead(scheduler, t) == steps_ahead(scheduler, float(t) / 1000) == late
    # PNDM: the repeated second timestep is found where it stands first
    first = 1 if name == "PNDMScheduler" else 2
    assert [one.level for one in late] == [one.level for one in whole[first:]]
    assert [one.level for one in steps_ahead(scheduler, t, 2)] == [one.level for one in late[:2]]
