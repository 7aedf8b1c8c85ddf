"""CFG++ against its own formulas, written out on exact denoisers."""

import itertools
import math

import diffusers
import pytest
import tiny
import torch
from guiders import CFG, Interval
from guiders.guidance import CFGPlusPlus, CFGPlusPlus2M, Denoiser, Level, Query, Readout, Step
from guiders.samplers import EDM, Mixture, as_network, final, sample
from known import Answers

pytestmark = pytest.mark.quick

LAMBDA = 0.6


def mixture():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    return Mixture(means, 0.2, labels=torch.arange(6) % 2)


def labels(batch=4):
    return torch.zeros(batch, dtype=torch.long), torch.full((batch,), -1)


def start(batch=4):
    return torch.randn(batch, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def branches(x, sigma):
    c, u = labels(len(x))
    return mixture()(x, sigma, c), mixture()(x, sigma, u)


def test_the_vector_of_ddim():
    """eps c, u as in the appendix, from alpha^2 0.5 to 0.8."""
    c, u, x = (
        torch.tensor([v], dtype=torch.float64) for v in ((1.0, 2, 2), (0.5, 1, -1), (1, 1, 1))
    )
    alpha2, after2 = 0.5, 0.8
    level, after = (Level(math.sqrt(a), math.sqrt(1 - a)) for a in (alpha2, after2))
    step = Step(0, 2, 0, level, after)
    readout = Readout(1 / level.alpha, -level.std / level.alpha)
    guided = Denoiser(CFG(CFGPlusPlus(LAMBDA)), 1)(Query(x, step), Answers(c, u, readout))
    eps = guided.output
    x0 = (x - level.std * eps) / level.alpha
    end = after.alpha * x0 + after.std * eps
    expected = torch.tensor([[0.772976, 0.281041, 0.102156]], dtype=torch.float64)
    torch.testing.assert_close(end, expected, atol=1e-6, rtol=0)
    assert guided.record.scales == [(pytest.approx(1.2),)]


def run(scheduler, guider, steps, **given):
    network = as_network(mixture(), *labels())
    return final(sample(network, scheduler, guider=guider, num_inference_steps=steps, **given)).x


def test_ddim_is_a_schedule_of_cfg():
    scheduler = diffusers.DDIMScheduler(**tiny.BETAS, clip_sample=False)
    ours = run(scheduler, CFG(CFGPlusPlus(LAMBDA)), 9, noise=start())
    x, alphas = start(), scheduler.alphas_cumprod.double()
    times = scheduler.timesteps.tolist()
    for t, after in zip(times, [*times[1:], None], strict=True):
        a = alphas[t]
        b = alphas[after] if after is not None else scheduler.final_alpha_cumprod.double()
        sigma = float(((1 - a) / a).sqrt())
        c, u = branches(x / a.sqrt(), sigma)
        noise = (x / a.sqrt() - u) / sigma  # the unconditional one
        x = b.sqrt() * (u + LAMBDA * (c - u)) + (1 - b).sqrt() * noise
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-5)


def test_euler_is_a_schedule_of_cfg():
    solver = EDM(sigma_max=14, sigma_min=0.03, order=1)
    ours = run(solver, CFG(CFGPlusPlus(LAMBDA)), 9, noise=start())
    x, sigmas = start() * 14, solver.sigmas(9)
    for sigma, after in itertools.pairwise(sigmas):
        c, u = branches(x, sigma)
        x = u + LAMBDA * (c - u) + after * (x - u) / sigma
    torch.testing.assert_close(ours, x, atol=1e-10, rtol=1e-10)


def two_m(x, sigmas, correction):
    """The authors' second-order multistep loop."""
    before = h_before = None
    for sigma, after in itertools.pairwise(sigmas):
        c, u = branches(x, sigma)
        guided = u + LAMBDA * (c - u)
        h = math.log(sigma / after) if after else math.inf
        if before is None or not after:
            x = guided + after / sigma * (x - u)
        else:
            r = h_before / h
            now = guided if correction == "guided" else u
            x = guided + math.exp(-h) * (x - u) - math.expm1(-h) * (now - before) / (2 * r)
        before, h_before = u, h
    return x


@pytest.mark.parametrize("correction", ["unconditional", "guided"])
def test_2m_is_a_term_on_any_first_order_solver(correction):
    guider = CFGPlusPlus2M(LAMBDA, correction=correction)
    solver = EDM(sigma_max=14, sigma_min=0.03, order=1)
    expected = two_m(start() * 14, solver.sigmas(9), correction)
    torch.testing.assert_close(
        run(solver, guider, 9, noise=start()), expected, atol=1e-9, rtol=1e-9
    )
    options = {**tiny.BETAS, "timestep_spacing": "trailing"}
    for scheduler in (
        diffusers.EulerDiscreteScheduler(**options),
        diffusers.DPMSolverMultistepScheduler(**options, solver_order=1),
    ):
        scheduler.set_timesteps(9)
        sigmas = scheduler.sigmas.double().tolist()
        spread = math.sqrt(1 + sigmas[0] ** 2)
        expected = two_m(start() * spread, sigmas, correction)
        got = run(scheduler, guider, 9, noise=start() * spread / edm_scale(scheduler, sigmas[0]))
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


def edm_scale(scheduler, sigma):
    """What becomes of a unit of noise at the start, on EDM's scale."""
    if hasattr(scheduler, "is_scale_input_called"):
        return float(scheduler.init_noise_sigma)
    return math.sqrt(1 + sigma**2)


def test_at_0_it_is_2m_of_the_unconditional_prediction():
    scheduler = diffusers.DPMSolverMultistepScheduler(**tiny.BETAS, solver_order=1)
    second = diffusers.DPMSolverMultistepScheduler(**tiny.BETAS)
    plain = final(sample(mixture(), second, noise=start(), num_inference_steps=20)).x
    ours = run(scheduler, CFGPlusPlus2M(0.0), 20, noise=start())
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_2m_gains_an_order_and_1_is_not_off():
    network = as_network(mixture(), *labels())
    run_ = sample(
        network, EDM(order=1), shape=(4, 3), guider=CFGPlusPlus2M(1.0), num_inference_steps=5
    )
    assert final(run_).nfe == 10
    inside = CFGPlusPlus2M(Interval(0.6, low=1, high=10))
    run_ = sample(network, EDM(order=1), shape=(4, 3), guider=inside, num_inference_steps=20)
    count = sum(1 < sigma <= 10 for sigma in EDM().sigmas(20))
    assert final(run_).nfe == 20 + count
