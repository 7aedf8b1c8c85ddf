"""What guidance is on exact mixtures, where Bayes' rule gives every answer."""

import pytest
import torch
from guiders import APG, CFG, TCFG, Adaptive, CFGZeroStar, MagnitudeAware, Rescale, WeakModel
from guiders.guidance import Denoiser, Level, Prediction, Query, Readout, Step
from guiders.samplers import EDM, Mixture, as_network, final, sample
from torch import nn

pytestmark = pytest.mark.quick

CLASSES, EVERY = 3, -1  # the label of all classes together


def mixture(width=2):
    """Seven Gaussians in three classes, in float64."""
    generator = torch.Generator().manual_seed(width)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    roots = 0.5 * normal(7, width, width)
    return Mixture(
        normal(7, width),
        roots @ roots.mT + 0.05 * torch.eye(width, dtype=torch.float64),
        normal(7).exp(),
        torch.tensor([0, 0, 0, 1, 1, 2, 2]),
    )


def class_posterior(exact, x, sigma):
    """How probable each class is for x (B, D): (B, classes)."""
    each = exact.posterior(x, sigma)
    return torch.stack([each[:, exact.labels == k].sum(1) for k in range(CLASSES)], 1)


def labels(label, x):
    return torch.full((len(x),), label)


def guided(exact, guider, x, sigma, label):
    """The guided clean image of class ``label`` against all classes, (B, D)."""
    network = as_network(exact, positive=labels(label, x), negative=labels(EVERY, x))
    query = Query(x, Step(0, 1, 0, Level(1.0, sigma)))
    return Denoiser(guider, len(x))(query, network).x0


def run(denoise, guider, x, positive=None, negative=None):
    """All images (B, D) of a short run of EDM's sampler from x (B, D) at sigma 5."""
    network = as_network(denoise, positive, negative)
    points = sample(
        network, EDM(sigma_max=5.0), x=x, guider=guider, num_inference_steps=12, progress=False
    )
    return final(points).x


class Gaussian(nn.Module):
    def __init__(self, mean, variance):
        super().__init__()
        self.mean, self.variance = mean, variance

    def forward(self, x, sigma):
        return self.mean + self.variance / (self.variance + sigma**2) * (x - self.mean)


@pytest.mark.parametrize("scale", [0.0, 2.0, 7.5])
def test_with_equal_variances_guidance_samples_the_tilted_density(scale):
    """p_u^(1-w) p_c^w of N(m_u, v) and N(m_c, v) is N((1-w) m_u + w m_c, v)."""
    strong, weak = torch.tensor([[0.3, -1.0], [0.8, 0.1]], dtype=torch.float64)
    x = 5 * torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    guider = CFG(scale, reference=WeakModel(Gaussian(weak, 0.3)))
    got = run(Gaussian(strong, 0.3), guider, x)
    tilted = Gaussian((1 - scale) * weak + scale * strong, 0.3)
    torch.testing.assert_close(got, run(tilted, CFG(1), x), atol=1e-12, rtol=1e-12)


def test_with_other_variances_it_does_not():
    mean = torch.zeros(2, dtype=torch.float64)
    x = 5 * torch.ones(1, 2, dtype=torch.float64)
    got = run(Gaussian(mean, 1.0), CFG(3, reference=WeakModel(Gaussian(mean, 2.0))), x)
    tilted = Gaussian(mean, 1 / (3 / 1.0 - 2 / 2.0))  # precisions add
    assert (got - run(tilted, CFG(1), x)).abs().max() > 0.1


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("scale", [1.0, 3.0, 9.0])
def test_cfg_averaged_over_the_posterior_is_the_unconditional_denoiser(scale, sigma):
    """sum q_k s_k = s: what guidance adds for one class it takes from the others."""
    exact = mixture()
    x = exact.draw(20, torch.Generator().manual_seed(1), sigma)
    q = class_posterior(exact, x, sigma)
    total = sum(q[:, k, None] * guided(exact, CFG(scale), x, sigma, k) for k in range(CLASSES))
    torch.testing.assert_close(total, exact(x, sigma), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_the_second_bayes_identity(sigma):
    """sum q_k (J_k + g_k g_k^T) = 0 for g_k = s_k - s and its Jacobian J_k."""
    exact = mixture(3)
    total = torch.zeros(3, 3, dtype=torch.float64)
    point = exact.draw(1, torch.Generator().manual_seed(2), sigma)
    q = class_posterior(exact, point, sigma)[0]
    for k in range(CLASSES):

        def direction(x, k=k):
            gap = guided(exact, CFG(2), x, sigma, k) - guided(exact, CFG(1), x, sigma, k)
            return gap[0] / sigma**2

        jacobian = torch.autograd.functional.jacobian(direction, point)[:, 0]
        g = direction(point)
        total += q[k] * (jacobian + torch.outer(g, g))
    assert q.max() < 0.99  # otherwise there is nothing to see
    assert total.abs().max() < 1e-12 * max(1, sigma**-4)


def test_the_guidance_direction_is_the_gradient_of_the_class_posterior():
    exact, sigma = mixture(), 0.7
    x = exact.draw(20, torch.Generator().manual_seed(3), sigma).requires_grad_()
    gradient = torch.autograd.grad(class_posterior(exact, x, sigma)[:, 1].log().sum(), x)[0]
    x = x.detach()
    gap = guided(exact, CFG(2), x, sigma, 1) - guided(exact, CFG(1), x, sigma, 1)
    torch.testing.assert_close(gap / sigma**2, gradient, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize(
    "guider", [APG(8, momentum=0), APG(8, momentum=-0.5, rescale=0.3), APG(8, rescale=0)]
)
def test_in_one_dimension_apg_without_its_parallel_part_is_unguided(guider):
    """One element has no other direction; a norm over the batch would find one."""
    exact = mixture(width=1)
    x = exact.draw(6, torch.Generator().manual_seed(4), 5.0)
    conditions = labels(0, x), labels(EVERY, x)
    got = run(exact, guider, x, *conditions)
    torch.testing.assert_close(got, run(exact, CFG(1), x, *conditions), atol=1e-12, rtol=0)
    along = guider.replace(eta=1.0)
    assert (run(exact, along, x, *conditions) - got).abs().max() > 1e-2


@pytest.mark.parametrize(
    "guider",
    [
        CFG(4), APG(4, rescale=0.2), CFGZeroStar(4), TCFG(4), MagnitudeAware(4),
        CFG(4) | Rescale(0.7), CFG(Adaptive(4, threshold=0.95)), CFG(2) + APG(3),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_of_a_batch_is_the_runs_of_its_images(guider):
    exact = mixture()
    x = exact.draw(4, torch.Generator().manual_seed(5), 5.0)
    conditions = torch.tensor([0, 1, 2, 1]), labels(EVERY, x)
    together = run(exact, guider, x, *conditions)
    for i in range(len(x)):
        one = slice(i, i + 1)
        alone = run(exact, guider, x[one], *(condition[one] for condition in conditions))
        torch.testing.assert_close(together[one], alone, atol=1e-12, rtol=1e-12)


def turning(guider, point):
    """The curl at a point (2,) of the guided field where D_c is x itself and the gap is (1, 0)."""
    gap = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def field(x):
        network = as_network(lambda x, sigma, shift: x + shift, 0 * x, (0 * x) - gap)
        return Denoiser(guider, 1)(Query(x, Step(0, 1, 0, Level(1.0, 1.0))), network).x0[0]

    jacobian = torch.autograd.functional.jacobian(field, point[None])[:, 0]
    return (jacobian[1, 0] - jacobian[0, 1]).item()


def test_apg_turns_a_field_that_has_no_curl():
    """The part of (1, 0) orthogonal to x is (y^2, -x y) / r^2, whose curl is -y / r^2."""
    for x, y in [(1.0, 1.0), (-0.4, 2.0), (0.6, -0.3)]:
        point = torch.tensor([x, y], dtype=torch.float64)
        expected = pytest.approx(-y / (x * x + y * y), abs=1e-12)
        assert turning(APG(2, eta=0, rescale=0, momentum=0), point) == expected
        assert turning(APG(2, eta=1, rescale=0, momentum=0), point) == pytest.approx(0, abs=1e-12)
        assert turning(CFG(2), point) == pytest.approx(0, abs=1e-12)


def test_at_pure_noise_the_scores_agree_and_the_velocities_do_not():
    """At s = 1 of a flow, v_c - v_u = E[x0] - E[x0 | c], while both eps are x itself."""
    exact, level = mixture(), Level(0.0, 1.0)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    flow = Readout(1.0, -1.0)
    means = {k: exact(x, 1e8, labels(k, x)) for k in (0, EVERY)}
    told = {name: means[k] for name, k in (("positive", 0), ("negative", EVERY))}

    def network(q, requests):
        return {b: Prediction(x, x - told[b.condition], flow) for b in requests}

    query = Query(x, Step(0, 1, 0, level))
    seen = {}
    for space in ("eps", "x0", "output"):
        denoiser = Denoiser(CFG(Adaptive(3, threshold=1 - 1e-9, space=space)), len(x))
        answer = denoiser(query, network)
        torch.testing.assert_close(answer.x0, means[EVERY] + 3 * (means[0] - means[EVERY]))
        torch.testing.assert_close(answer.positive.eps(level).tensor(), x)
        again = denoiser(Query(x, Step(1, 2, 0, level)), network)
        seen[space] = len(again.record.skipped)
    # A naive cosine of eps is 1 and would stop all of them; without signal nothing is known.
    assert seen == {"eps": 0, "x0": 0, "output": 0}
    gap = (x - told["positive"]) - (x - told["negative"])
    assert gap.norm(dim=1).min() > 0.1
