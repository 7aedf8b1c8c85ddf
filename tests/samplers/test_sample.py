"""The sampling loop over every scheduler, and EDM's sampler, on mixtures with exact denoisers."""

import itertools
import math

import diffusers
import pytest
import schedulers
import tiny
import torch
from guiders import CFG, Interval, WeakModel, read_level
from guiders.guidance import Prediction
from guiders.samplers import EDM, FAMILIES, Mixture, as_network, final, sample
from torch import nn

POINT = torch.tensor([0.3, -0.6, 0.2])
ENDS_NOISY = {  # at the lowest level of the training
    "DDPMWuerstchenScheduler", "DEISMultistepScheduler", "SASolverScheduler", "TCDScheduler",
    "UnCLIPScheduler",
}  # fmt: skip
BACKWARDS = {"DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"}
FORWARDS = sorted(set(FAMILIES) - BACKWARDS)


def image(x, sigma):
    """The denoiser of a single image."""
    return POINT.to(x).expand_as(x)


class Gaussian(nn.Module):
    """The denoiser of N(mean, variance)."""

    def __init__(self, variance, mean=0.0):
        super().__init__()
        self.variance, self.mean = variance, mean

    def forward(self, x, sigma, *condition):
        return self.mean + self.variance / (self.variance + sigma**2) * (x - self.mean)


def mixture(dtype=torch.float64):
    """Two classes of two Gaussians each, in three dimensions."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(4, 3, dtype=dtype, generator=generator)
    roots = 0.3 * torch.randn(4, 3, 3, dtype=dtype, generator=generator)
    return Mixture(
        means, roots @ roots.mT + 0.02 * torch.eye(3, dtype=dtype), torch.tensor([1, 2, 3, 1.0]),
        torch.tensor([0, 0, 1, 1]),
    )  # fmt: skip


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def ddim(**options):
    return diffusers.DDIMScheduler(**tiny.BETAS, clip_sample=False, **options)


@pytest.mark.parametrize("name", FORWARDS)
def test_every_scheduler_leads_a_perfect_denoiser_to_its_image(name):
    scheduler = schedulers.built(name, ())
    run = sample(
        image, scheduler, shape=(2, 5, 3), num_inference_steps=8, generator=generators(1, 2)
    )
    points = list(run)
    assert len(points) == (7 if name == "MiniMaxH3Scheduler" else 8)  # which counts the ends
    assert points[-1].nfe == len(points[-1].records) == points[-1].step.total
    torch.testing.assert_close(points[-1].x0, image(points[-1].x, 0), atol=1e-4, rtol=0)
    if name not in ENDS_NOISY and name != "IPNDMScheduler":  # which throws the first answer away
        torch.testing.assert_close(points[-1].x, image(points[-1].x, 0), atol=3e-3, rtol=0)


# These draw from a Brownian tree that has one seed for the batch.
@pytest.mark.parametrize(
    "name", sorted({*FORWARDS} - {"CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler"})
)
def test_a_batch_is_a_loop_with_a_generator_for_each_image(name):
    def run(*seeds):
        torch.manual_seed(seeds[0])
        return final(
            sample(
                mixture(torch.float32), schedulers.built(name, ()), shape=(len(seeds), 1, 3),
                num_inference_steps=5, generator=generators(*seeds),
            )
        ).x  # fmt: skip

    together = run(3, 4)
    assert together.isfinite().all()
    torch.testing.assert_close(together, torch.cat([run(3), run(4)]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++", "unipc", "heun", "pndm"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_it_is_the_loop_of_a_pipeline(name, prediction_type):
    """A network's own output reaches the scheduler as it is: latents of a pipeline, bit for bit."""
    pipe = tiny.sd(name, prediction_type)
    expected = tiny.run(pipe, 2, guidance_scale=1.0)
    scheduler = tiny.scheduler(name, prediction_type)
    prompts = pipe.encode_prompt(["red heart", "blue car"], "cpu", 1, False)[0]

    def network(q, requests):
        (branch,) = requests
        t = scheduler.timesteps[q.step.index]
        output = pipe.unet(q.x, t, encoder_hidden_states=prompts).sample
        readout = read_level(scheduler, t).readout
        return {branch: Prediction(q.x, output, readout)}

    run = sample(network, scheduler, noise=tiny.latents(2), num_inference_steps=6, guider=CFG(1))
    assert torch.equal(final(run).x, expected)


def test_the_levels_are_those_of_the_paper():
    sigmas = EDM().sigmas(32)
    known = {0: 80, 1: 66.9, 13: 5.00, 17: 1.61, 22: 0.283, 23: 0.189, 31: 0.002, 32: 0}
    for index, sigma in known.items():
        assert sigmas[index] == pytest.approx(sigma, rel=3e-3)
    steps = EDM().evaluations(32)
    assert len(steps) == 63
    assert [step.stage for step in steps] == [0, 1] * 31 + [0]


def exact_gaussian(x, variance, sigma_max):
    """Where the probability flow of a Gaussian ends."""
    return x * math.sqrt(variance / (variance + sigma_max**2))


@pytest.mark.parametrize(("order", "expected"), [(1, 1), (2, 2)])
def test_the_error_falls_as_the_order_says(order, expected):
    exact, errors = mixture(), []
    x = 5 * torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solver = EDM(sigma_max=5, sigma_min=0.02, order=order)
    # down to sigma_min, so that the last step to 0, which is Euler's, does not count
    ends = {
        n: list(sample(exact, solver, x=x, num_inference_steps=n))[-2].x for n in (20, 40, 80, 1280)
    }
    errors = [float((ends[n] - ends[1280]).norm()) for n in (20, 40, 80)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes[-1] == pytest.approx(expected, abs=0.25)


def test_churn_keeps_the_distribution():
    solver = EDM(sigma_max=10, s_churn=30, s_min=0.01, s_max=5)
    x = torch.randn(8000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = x * math.sqrt(0.5 + 100)
    (generator,) = generators(2)
    end = final(
        sample(Gaussian(0.5), solver, x=start, num_inference_steps=100, generator=generator)
    )
    assert float(end.x.var()) == pytest.approx(0.5, rel=0.06)
    plain = exact_gaussian(start, 0.5, 10)
    assert float(torch.corrcoef(torch.cat([end.x, plain], 1).T)[0, 1]) < 0.9  # it did add noise
    raised = [step.sigma for step in solver.evaluations(100)[::2]]
    for above, sigma in zip(raised, solver.sigmas(100), strict=False):
        assert above / sigma == pytest.approx(1.3 if 0.01 <= sigma <= 5 else 1)


def end_variance(guider, steps=800, sigma_max=200.0, low=1e-3):
    """Of CFG between N(0, 1) with and N(0, 2) without the condition, from one trajectory."""

    def denoise(x, sigma, variance):
        return variance / (variance + sigma**2) * x

    network = as_network(denoise, torch.tensor([[1.0]]).double(), torch.tensor([[2.0]]).double())
    x = torch.tensor([[math.sqrt(1 + sigma_max**2)]], dtype=torch.float64)
    solver = EDM(sigma_max=sigma_max, sigma_min=low)
    run = sample(network, solver, x=x, guider=guider, num_inference_steps=steps)
    return float(final(run).x ** 2)


def test_guidance_does_not_sample_the_tilted_distribution():
    """v_u^(1-w) v_c^w = 0.25, where p_u^(1-w) p_c^w has 0.5 (Bradley & Nakkiran 2024)."""
    assert end_variance(CFG(3)) == pytest.approx(0.250013, abs=1e-4)
    assert end_variance(CFG(1)) == pytest.approx(1, abs=1e-4)


def test_guidance_in_an_interval_has_the_variance_of_the_formula():
    def log(a, b):
        return math.log(a / b)

    w, low, high, top = 3, 0.3**2, 3.0**2, 200.0**2
    exact = math.exp(
        log(1, 1 + low)
        + (1 - w) * log(2 + low, 2 + high)
        + w * log(1 + low, 1 + high)
        + log(1 + high, 1 + top)
    ) * (1 + top)
    assert exact == pytest.approx(0.329114, abs=1e-6)
    # in three runs, so that the ends of the interval are levels
    levels = [200.0, 3.0, 0.3]
    x = torch.tensor([[math.sqrt(1 + levels[0] ** 2)]], dtype=torch.float64)

    def denoise(x, sigma, variance):
        return variance / (variance + sigma**2) * x

    network = as_network(denoise, torch.tensor([[1.0]]).double(), torch.tensor([[2.0]]).double())
    guider = CFG(Interval(w, low=0.3 + 1e-9, high=3.0 + 1e-9))
    for top, low in ((200.0, 3.0), (3.0, 0.3), (0.3, 1e-3)):
        solver = EDM(sigma_max=top, sigma_min=low)
        points = list(sample(network, solver, x=x, guider=guider, num_inference_steps=300))
        x = points[-1 if low < 0.1 else -2].x
    assert float(x**2) == pytest.approx(exact, abs=1e-4)


def test_the_reference_is_asked_only_where_the_guider_is():
    steps = 20
    guider = CFG(Interval(3, low=0.5, high=10))
    network = as_network(mixture(torch.float32), torch.tensor([0, 1]), torch.tensor([-1, -1]))
    end = final(sample(network, EDM(), shape=(2, 3), num_inference_steps=steps, guider=guider))
    inside = sum(0.5 < sigma <= 10 for sigma in EDM().sigmas(steps))
    assert end.nfe == 2 * steps - 1 + 2 * inside


def test_a_weak_model_is_called_like_the_first():
    """Autoguidance of Gaussians of equal variance has a Gaussian at (1 - w) m_0 + w m_1."""
    network = as_network(Gaussian(0.3, 1.0))
    guider = CFG(2.5, reference=WeakModel(Gaussian(0.3, 0.8)))
    x = torch.zeros(1, 2, dtype=torch.float64)
    run = sample(network, EDM(sigma_max=500), x=x, guider=guider, num_inference_steps=200)
    torch.testing.assert_close(final(run).x, torch.full_like(x, 1.3), atol=2e-3, rtol=0)


def test_it_is_differentiable_when_asked():
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def denoise(x, sigma):
        return scale / (scale + sigma**2) * x

    x = torch.ones(1, 3, dtype=torch.float64)
    for scheduler in (EDM(sigma_max=3), ddim()):
        for grad in (False, True):
            run = sample(denoise, scheduler, x=x, num_inference_steps=6, grad=grad)
            enabled = [torch.is_grad_enabled() for _ in range(2) if next(run)]
            end = final(run).x.sum()
            assert enabled == [True, True]
            assert end.requires_grad == grad
    (slope,) = torch.autograd.grad(end, scale)

    def at(value):
        with torch.no_grad():
            scale.fill_(value)
        return float(final(sample(denoise, ddim(), x=x, num_inference_steps=6)).x.sum())

    assert float(slope) == pytest.approx((at(0.501) - at(0.499)) / 0.002, rel=1e-4)


@pytest.mark.parametrize("order", [1, 2])
def test_the_run_goes_on_from_what_a_consumer_assigns(order):
    """Straight to a single image, the distance is as the noise level."""
    solver = EDM(sigma_max=4, order=order)
    run = sample(image, solver, shape=(1, 3), num_inference_steps=4)
    next(run).x = torch.full((1, 3), 7.0)
    _, here, there, *_ = solver.sigmas(4)
    expected = POINT + (7 - POINT) * there / here
    torch.testing.assert_close(next(run).x, expected[None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": None}, "given by nothing; allowed is one of shape, noise and x"),
        ({"x": torch.zeros(2, 3)}, "given by shape and x; allowed is one"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected a whole number.*, got 0"),
        ({"num_inference_steps": True}, r"num_inference_steps: expected .*, got True"),
        ({"num_inference_steps": None}, "num_inference_steps is None; allowed with EDM"),
        ({"eta": 1.0}, "eta is 1.0; allowed with EDM"),
        ({"scheduler": ddim(), "churn": 1.0}, "churn is 1.0; allowed for DDIMScheduler is one of"),
        ({"scheduler": diffusers.RePaintScheduler()}, "RePaintScheduler, which lists"),
        ({"generator": generators(1)}, "a list of 1 for 2 images; allowed is one, or one for each"),
    ],
)
def test_what_cannot_be_is_refused_at_once(change, message):
    given = {"scheduler": EDM(), "shape": (2, 3), "num_inference_steps": 3, **change}
    with pytest.raises(ValueError, match=message):
        sample(image, **given)


def test_a_guider_that_asks_for_a_missing_condition_is_told():
    with pytest.raises(ValueError, match="negative is None; allowed for a guider"):
        final(sample(as_network(image), EDM(), shape=(1, 3), guider=CFG(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": 90}, "sigma_min: expected a number between 0 and sigma_max.*, got 90.0"),
        ({"sigma_min": 0}, "sigma_min: expected .*, got 0.0"),
        ({"rho": 0}, "rho: expected a number above 0, got 0"),
        ({"order": 3}, "order: expected a whole number between 1 and 2, got 3"),
        ({"s_churn": -1}, "s_churn: expected .*, got -1"),
    ],
)
def test_settings_of_the_sampler_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        EDM(**options)
