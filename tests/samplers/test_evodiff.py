"""EVODiff: its formulas, its limit, and what Diffusers expects of any scheduler."""

import copy
import json
import math

import diffusers
import guiders
import pytest
import tiny
import torch
import zoo
from guiders import APG, CFG, guided
from guiders.samplers import EVODiffMultistepScheduler, Mixture, final, read_level, sample
from guiders.samplers.evodiff import _share

FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
SETTINGS = [
    {},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_lu_lambdas": True},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    {"prediction_type": "sample"},
    {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True, "lower_order_final": False},
    {"thresholding": True, "sample_max_value": 2.0},
    FLOW,
]


def make(kind=EVODiffMultistepScheduler, steps=None, **options):
    scheduler = kind(**{**tiny.BETAS, **options})
    if steps:
        scheduler.set_timesteps(steps)
    return scheduler


def mixture(shape=(4, 3, 3), count=5):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(count, math.prod(shape), dtype=torch.float64, generator=generator)
    return Mixture(means, 0.05)


def noise(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def run(scheduler, steps=8, shape=(2, 4, 3, 3)):
    return final(
        sample(mixture(shape[1:]), scheduler, noise=noise(*shape), num_inference_steps=steps)
    ).x


class Plain(EVODiffMultistepScheduler):
    """Without what is EVODiff's own."""

    corrector = False

    def rho(self, new, old, base, omega):
        return 1.0

    def reach(self, rho, ratio):
        return ratio


@pytest.mark.parametrize("options", SETTINGS, ids=lambda options: ",".join(map(str, options)))
def test_without_balance_and_corrector_it_is_dpm_solver(options):
    ours = run(make(Plain, **options), steps=16)
    theirs = run(make(diffusers.DPMSolverMultistepScheduler, **options), steps=16)
    torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=3e-5)


def written_out(denoise, x, kappas, times, top):
    """Section by section as published, on x = x0 + kappa * noise, ending above zero."""

    def clip(a):
        return a.clamp(-2, 2)

    def dot(a, b):
        return (a * b).sum((2, 3), keepdim=True)

    count = len(kappas) - 1
    m = [denoise(x, kappas[0])]
    h = 1 / kappas[1] - 1 / kappas[0]
    x = kappas[1] / kappas[0] * x + kappas[1] * h * m[0]
    m.append(denoise(x, kappas[1]))
    for k in range(2, count + 1):
        kt, k0, k1 = kappas[k], kappas[k - 1], kappas[k - 2]
        h, m0, m1 = 1 / kt - 1 / k0, m[-1], m[-2]
        xe = kt / k0 * x + kt * h * m0
        if k == count:
            q = kt / k0
            d = 1 - 0.5 * math.sqrt(q) if q < 0.5 else 1 - 0.5 * math.sqrt(q - 0.5)
            return (1 - math.sqrt(kt * k0)) * xe + 0.5 * kt * h * (m0 - d * m1)
        rlog = math.log(k1 / k0) / math.log(k0 / kt)
        tn = (times[k] + 1) / (top + 1)
        w = 0.5 * (1 - tn**2)
        base = math.sqrt((kt / k0) / (k0 / k1))
        rho1 = (1 - w) * base + w * clip(dot(m0, m1) / dot(m1, m1))
        d1 = m0 - rho1 * m1
        r = (torch.sigmoid(0.25 * rho1.abs()) * rlog).clamp(0.25 * rlog, 1.5 * rlog)
        xp = xe + 0.5 * kt * (h / r) * d1
        mt = denoise(xp, kt)
        rho2 = (1 - w) * base + w * clip(dot(mt, m0) / dot(m0, m0))
        d2 = mt - rho2 * m0
        bp, bn = d1 / (rlog * h), rlog * d2 / h
        eta = 0.5 * torch.sigmoid((0.5 * clip(dot(bn + bp, bn - bp) / dot(bn - bp, bn - bp))).abs())
        b = -eta / rlog * d1 + rlog * (1 - eta) * d2
        p = xp - xe - 0.5 * kt * (h / r) * b
        zeta = (clip(dot(p, d1) / dot(d1, d1)) / (h * kt)).abs() - 0.5
        if count > 20:
            delta = (m0 - m1) / h
            zeta = -zeta * torch.sigmoid(
                clip(dot(m0, delta) / dot(delta, delta)) * (2 - (kt / k0) ** 2)
            )
        x = xe + 0.5 * kt * (h / torch.sigmoid(zeta)) * b
        m.append(mt)
    return None


@pytest.mark.parametrize("steps", [3, 8, 24])
@pytest.mark.parametrize(
    "options", [{}, {"timestep_spacing": "trailing"}, {"prediction_type": "v_prediction"}]
)
def test_it_is_the_published_algorithm(steps, options):
    scheduler = make(steps=steps, final_sigmas_type="sigma_min", **options)
    kappas, times = scheduler.sigmas.double().tolist(), [*scheduler.timesteps.tolist(), 0]
    start = noise(2, 4, 3, 3)
    alpha = 1 / math.sqrt(1 + kappas[0] ** 2)
    expected = written_out(mixture(), start / alpha, kappas, times, 1000)
    end = 1 / math.sqrt(1 + kappas[-1] ** 2)
    ours = final(sample(mixture(), scheduler, noise=start, num_inference_steps=steps)).x
    torch.testing.assert_close(ours / end, expected, atol=1e-4, rtol=1e-4)


def test_one_evaluation_for_each_step():
    run_ = final(sample(mixture(), make(), noise=noise(2, 4, 3, 3), num_inference_steps=9))
    assert run_.nfe == 9


@pytest.mark.parametrize("options", SETTINGS, ids=lambda options: ",".join(map(str, options)))
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25])
def test_a_whole_loop_ends_in_the_data(options, steps):
    scheduler = make(steps=steps, **options)
    assert scheduler.timesteps.tolist() == sorted(scheduler.timesteps.tolist(), reverse=True)
    assert len(scheduler.timesteps) == steps == len(scheduler.sigmas) - 1
    end = run(scheduler, steps)
    assert end.isfinite().all()
    assert end.abs().max() < 20  # two beta sigmas of three are almost the last


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 4), (2, 3, 4, 4), (2, 3, 2, 4, 4)])
def test_a_batch_is_a_loop_for_every_shape_of_latents(shape):
    together = run(make(), 6, shape)
    start = noise(*shape)
    for row in range(2):
        alone = final(
            sample(mixture(shape[1:]), make(), noise=start[row : row + 1], num_inference_steps=6)
        ).x
        torch.testing.assert_close(alone, together[row : row + 1])


def test_channels_are_balanced_one_by_one():
    a, b = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=2)
    assert _share(a, b).shape == (2, 3, 1, 1)
    assert _share(noise(2, 7, 3), noise(2, 7, 3, seed=2)).shape == (2, 1, 3)  # tokens
    assert _share(noise(2, 3), noise(2, 3, seed=2)).shape == (2, 1)
    assert (_share(b * 5, b) == 2).all()
    assert (_share(a, b * 0) == 0).all()


@pytest.mark.parametrize("options", SETTINGS, ids=lambda options: ",".join(map(str, options)))
def test_it_is_the_same_from_its_configuration(options, tmp_path):
    scheduler = make(**options)
    scheduler.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert kept["_class_name"] == "EVODiffMultistepScheduler"
    again = EVODiffMultistepScheduler.from_pretrained(tmp_path)
    assert {k: again.config[k] for k in kept} == {k: scheduler.config[k] for k in kept}
    assert kept.items() >= options.items()
    assert torch.equal(run(again), run(scheduler))


@pytest.mark.parametrize("name", sorted(tiny.SCHEDULERS))
def test_it_takes_the_place_of_any_scheduler(name):
    before = tiny.scheduler(name, "v_prediction")
    scheduler = EVODiffMultistepScheduler.from_config(before.config, use_karras_sigmas=True)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.beta_end == before.config.beta_end
    back = type(before).from_config(scheduler.config)
    assert back.config.beta_end == before.config.beta_end
    assert type(before) in scheduler.compatibles


def test_a_saved_pipeline_has_it(tmp_path):
    pipe = tiny.sd("dpm++")
    pipe.scheduler = EVODiffMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, guiders.EVODiffMultistepScheduler)
    assert torch.equal(tiny.run(again), tiny.run(pipe))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shapes_and_types_are_kept(dtype):
    scheduler = make(steps=6)
    x = noise(2, 4, 8, 8).to(dtype)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        result = scheduler.step(0.3 * seen, t, x)
        (same,) = copy.deepcopy(scheduler_before(scheduler, t, x)).step(
            0.3 * seen, t, x, return_dict=False
        )
        assert result.prev_sample.shape == same.shape == x.shape
        assert result.prev_sample.dtype == same.dtype == dtype
        x = result.prev_sample
    assert x.isfinite().all()


def scheduler_before(scheduler, t, x):
    """One that has just begun at ``t``."""
    fresh = make(steps=6)
    fresh.set_begin_index(scheduler.timesteps.tolist().index(t))
    return fresh


def test_noise_is_added_as_by_the_solver_it_replaces():
    ours, theirs = make(steps=10), make(diffusers.DPMSolverMultistepScheduler, steps=10)
    x, n, t = noise(3, 4, 8, 8), noise(3, 4, 8, 8, seed=2), ours.timesteps[[1, 4, 8]]
    assert torch.equal(ours.add_noise(x, n, t), theirs.add_noise(x, n, t))
    level = read_level(ours, ours.timesteps[4]).level
    torch.testing.assert_close(ours.add_noise(x, n, t)[1], level.alpha * x[1] + level.std * n[1])


def test_a_second_run_is_the_first():
    scheduler = make()
    assert torch.equal(run(scheduler), run(scheduler))


def test_a_run_that_begins_late_begins_with_euler():
    late = make(steps=10)
    late.set_begin_index(6)
    x, output, t = noise(1, 4, 3, 3), noise(1, 4, 3, 3, seed=2), late.timesteps[6]
    euler = make(diffusers.DPMSolverMultistepScheduler, steps=10)
    euler.set_begin_index(6)
    torch.testing.assert_close(
        late.step(output, t, x).prev_sample, euler.step(output, t, x).prev_sample.double(),
        atol=1e-6, rtol=1e-6,
    )  # fmt: skip


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="algorithm_type is 'sde-dpmsolver\\+\\+'; allowed"):
        make(steps=5, algorithm_type="sde-dpmsolver++")
    with pytest.raises(ValueError, match="num_inference_steps is None; call set_timesteps"):
        make().step(noise(1, 4, 2, 2), 5, noise(1, 4, 2, 2))


@pytest.mark.parametrize("kind", [tiny.sd, tiny.sdxl])
def test_guided_pipelines_take_it(kind):
    pipe = kind("dpm++")
    pipe.scheduler = EVODiffMultistepScheduler.from_config(pipe.scheduler.config)
    own = tiny.run(pipe, guidance_scale=5.0)
    with guided(pipe, CFG(5), quiet=True) as attached:
        torch.testing.assert_close(tiny.run(pipe, guidance_scale=2.0), own, atol=1e-5, rtol=1e-5)
    assert attached.nfe == 12
    with guided(pipe, APG(5), quiet=True):
        assert tiny.run(pipe, guidance_scale=2.0).isfinite().all()


TAKE_DPM_SOLVER = [
    "dit", "hunyuan-dit", "kandinsky22", "pixart-sigma", "sana", "sd-controlnet", "sd-img2img",
    "sd-inpaint", "sdxl-img2img", "wan",
]  # fmt: skip


@pytest.mark.parametrize("name", TAKE_DPM_SOLVER)
def test_pipelines_that_take_dpm_solver_take_it(name):
    """From noise and from a picture, in VP and in flow, for one pass and for two."""
    pipe = zoo.build(name)
    pipe.scheduler = EVODiffMultistepScheduler.from_config(pipe.scheduler.config)
    own = zoo.run(name, pipe)
    with guided(pipe, CFG(5), quiet=True):
        latents = zoo.run(name, pipe, scale=2.0)
    assert latents.isfinite().all()
    torch.testing.assert_close(latents, own, atol=2e-4, rtol=2e-4)
