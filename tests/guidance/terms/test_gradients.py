"""Gradient terms: against closed forms, and never more of the network than is needed."""

import pytest
import torch
from guiders import (
    APG,
    CFG,
    MPGD,
    Adaptive,
    ClassifierGuidance,
    Guider,
    Interval,
    UniversalGuidance,
)
from guiders.guidance import Denoiser, Level, Prediction, Query, Readout, Step
from known import Answers, step


def x_(batch=2):
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(0))


class Linear:
    """A network ``output = a * x``, and x0 = output."""

    def __init__(self, a=0.5):
        self.a, self.grad = a, []

    def __call__(self, q, requests):
        self.grad.append(q.x.requires_grad)
        return {
            branch: Prediction(q.x[rows], self.a * q.x[rows] + (branch.condition == "negative"),
                               Readout(0.0, 1.0))
            for branch, rows in requests.items()
        }  # fmt: skip


def quadratic(pictures, prompts):
    """log p = -|x0 - 1|^2 / 2."""
    return -(pictures - 1).square().flatten(1).sum(dim=1) / 2


def latents(kind=UniversalGuidance, **settings):
    return kind(reward=quadratic, space="latents", **settings)


def test_classifier_guidance_is_that_of_dhariwal_and_nichol():
    """eps - s sqrt(1 - abar) grad log p(y | x), for a Gaussian log p around 1."""
    x, at = x_(), step(0, sigma=2.0)
    level = at.level

    def log_prob(x, step, prompts):
        assert step is at
        return -(x - 1).square().sum(dim=1) / 2

    eps = 0.3 * x
    readout = Readout(1 / level.alpha, -level.std / level.alpha)
    network = Answers(eps, eps, readout)
    out = Denoiser(ClassifierGuidance(1.7, log_prob), 2)(Query(x, at), network).output
    torch.testing.assert_close(out, eps - 1.7 * level.std * (1 - x))


def test_universal_guidance_goes_through_the_network():
    x, at = x_(), step(0, sigma=2.0)
    level, network = at.level, Linear(0.5)
    with torch.no_grad():
        result = Denoiser(latents(scale=0.3), 2)(Query(x, at), network)
    d = 0.5 * x
    expected = d + level.std**2 / level.alpha * 0.3 * (0.5 * (1 - d))
    torch.testing.assert_close(result.output, expected)
    assert network.grad == [True]
    assert not result.output.requires_grad


def test_mpgd_does_not():
    x, network = x_(), Linear(0.5)
    out = Denoiser(latents(MPGD, scale=0.3), 2)(Query(x, step()), network).output
    torch.testing.assert_close(out, 0.5 * x + 0.3 * (1 - 0.5 * x))
    assert network.grad == [False]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", [UniversalGuidance, MPGD])
def test_under_the_callers_mode(mode, kind):
    x = x_()
    guider = CFG(3) + latents(kind, scale=0.3)
    free = Denoiser(guider, 2)(Query(x, step()), Linear()).output
    with mode():
        bound = Denoiser(guider, 2)(Query(x_(), step()), Linear()).output
    assert torch.equal(free, bound)


def test_whoever_differentiates_through_the_run_sees_the_gradient_as_a_constant():
    x = x_().requires_grad_()
    out = Denoiser(latents(scale=0.3), 2)(Query(x, step(sigma=2.0)), Linear(0.5)).output
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, torch.full_like(x, 0.5))


def test_parameters_of_the_network_get_their_gradient():
    weight = torch.tensor(0.5, requires_grad=True)
    x = x_()
    out = Denoiser(latents(scale=0.3), 2)(Query(x, step(sigma=2.0)), Linear(weight)).output
    (grad,) = torch.autograd.grad(out.sum(), weight)
    torch.testing.assert_close(grad, x.sum())


def test_no_graph_is_kept_between_steps():
    """Momentum and the like are kept without the graph of the step that made them."""
    denoiser = Denoiser(APG(5) + latents(scale=0.3), 2)
    with torch.no_grad():
        for i in range(3):
            result = denoiser(Query(x_(), step(i)), Linear(torch.tensor(0.5, requires_grad=True)))
            assert not result.output.requires_grad
            kept = list(denoiser.memory().values())
            assert kept
            assert not any(value.requires_grad for value in kept)


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 3e-4])
def test_where_there_is_no_signal_the_change_is_bounded(alpha):
    at = Step(0, 4, 0, Level(alpha, 1 - alpha))
    out = Denoiser(latents(scale=1.0), 2)(Query(x_(), at), Linear(0.5)).output
    gradient = 0.5 * (1 - 0.5 * x_())
    torch.testing.assert_close(out - 0.5 * x_(), 100 * (1 - alpha) * gradient)


def test_matched_to_nothing_it_is_nothing():
    guider = CFG(Interval(3, high=0.1)) + latents(scale=1.0, low=0.3, high=3.0)
    out = Denoiser(guider, 2)(Query(x_(), step()), Linear()).output
    torch.testing.assert_close(out, 0.5 * x_())


@pytest.mark.parametrize("ratio", [(0.33, 3.0), (0.5, 0.5), (0.0, 0.1)])
def test_the_norm_is_matched_to_the_other_terms(ratio):
    """Guide-and-Rescale: rho = |g| / |cfg|, g * clip(rho, low, high) / rho."""
    low, high = ratio
    x, at = x_(), step(sigma=2.0)

    def change(guider):
        return Denoiser(guider, 2)(Query(x, at), Linear()).output - 0.5 * x

    cfg, g = change(CFG(3)), change(latents(scale=1.0))
    both = change(CFG(3) + latents(scale=1.0, low=low, high=high)) - cfg
    rho = g.norm(dim=1) / cfg.norm(dim=1)
    expected = g * (rho.clamp(low, high) / rho)[:, None]
    torch.testing.assert_close(both, expected)


def test_images_do_not_mix_and_gates_are_off_at_zero():
    x = x_(3)
    guider = CFG([1, 3, 5]) + latents(scale=[0.3, 0.0, 0.3])
    together = Denoiser(guider, 3)(Query(x, step()), Linear())
    for row, (scale, s) in enumerate([(1, 0.3), (3, 0.0), (5, 0.3)]):
        alone = Denoiser(CFG(scale) + latents(scale=s), 1)(
            Query(x[row : row + 1], step()), Linear()
        )
        torch.testing.assert_close(alone.output[0], together.output[row])
    gated = latents(scale=Interval(0.3, low=5.0))
    network = Linear()
    result = Denoiser(gated, 2)(Query(x_(), step(sigma=1.0)), network)
    assert torch.equal(result.output, 0.5 * x_())
    assert network.grad == [False]
    assert result.record.skipped == [0, 1]


def test_what_a_reward_has_to_be():
    def run(reward, **settings):
        guider = UniversalGuidance(0.5, reward, space="latents", **settings)
        return Denoiser(guider, 2)(Query(x_(), step()), Linear())

    with pytest.raises(ValueError, match=r"the score is shape \(\); allowed is a tensor of shape"):
        run(lambda pictures, prompts: pictures.sum())
    with pytest.raises(ValueError, match="has no gradient"):
        run(lambda pictures, prompts: pictures.detach().sum(dim=1))
    with pytest.raises(ValueError, match="allowed are finite numbers"):
        run(lambda pictures, prompts: pictures.sum(dim=1) * torch.nan)
    with pytest.raises(ValueError, match="do not depend on x"):
        run(lambda pictures, prompts: torch.ones(2, requires_grad=True))
    with pytest.raises(ValueError, match=r"asks for decoded pictures, which only a pipeline has"):
        Denoiser(UniversalGuidance(0.5, quadratic), 2)(Query(x_(), step()), Linear())
    with pytest.raises(ValueError, match="needs no reference"):
        latents(scale=Adaptive(3))
    with pytest.raises(ValueError, match=r"high: expected at least low \(= 0.3\).*, got None"):
        latents(low=0.3)
    with pytest.raises(ValueError, match=r"log_prob: expected a function .*, got None"):
        ClassifierGuidance(3)
    for kind in (UniversalGuidance, MPGD):
        with pytest.raises(ValueError, match=f"{kind.__name__}: reward: expected .*, got None"):
            kind(3)


def test_rewards_are_stored_by_name_and_code_is_not_run_unasked():
    named = UniversalGuidance(0.5, "emoji-clip") + MPGD(2, "jpeg", low=0.3, high=3)
    assert Guider.from_dict(named.to_dict()) == named
    coded = MPGD(0.5, "os:getcwd")
    with pytest.raises(ValueError, match="functions=True"):
        Guider.from_dict(coded.to_dict())
    assert Guider.from_dict(coded.to_dict(), functions=True) == coded
    with pytest.raises(ValueError, match="not stored as JSON"):
        latents().to_dict()
    with pytest.raises(ValueError, match="not stored as JSON"):
        ClassifierGuidance(1, quadratic).to_dict()


@pytest.mark.parametrize("slope", [1e-9, 1.0, 1e3])
def test_gradients_in_half_precision_neither_vanish_nor_overflow(slope):
    """A mean over the pixels of a large picture has a slope for each that float16 takes for 0."""
    query = Query(torch.randn(2, 3, 4).half(), step()).watched()
    values = slope * query.x.float().flatten(1).sum(dim=1)
    found = query.gradient(values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full_like(found, slope), rtol=1e-3, atol=0)
