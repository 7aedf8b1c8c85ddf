"""The exact denoiser: against autograd, Monte Carlo and the identities of Bayes."""

import pytest
import torch
from guiders.samplers import Mixture

pytestmark = pytest.mark.quick


def mixture(width=3, count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(count, width, dtype=torch.float64, generator=generator)
    roots = 0.4 * torch.randn(count, width, width, dtype=torch.float64, generator=generator)
    spread = roots @ roots.mT + 0.05 * torch.eye(width, dtype=torch.float64)
    labels = torch.arange(count) % 2
    return Mixture(means, spread, torch.arange(1.0, count + 1), labels)


def points(count, width=3, seed=1):
    return torch.randn(
        count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, -1, 1, 0])])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_the_score_is_the_gradient_of_the_log_density(sigma, labels):
    x = (sigma * points(5)).requires_grad_()
    density = mixture().log_density(x, sigma, labels)
    (gradient,) = torch.autograd.grad(density.sum(), x)
    torch.testing.assert_close(mixture().score(x, sigma, labels), gradient, rtol=1e-9, atol=1e-10)


def test_the_density_is_that_of_torch():
    ours, x = mixture(), points(6)
    spread = ours.axes @ torch.diag_embed(ours.variances + 0.7**2) @ ours.axes.mT
    parts = torch.distributions.MultivariateNormal(ours.means, spread)
    mix = torch.distributions.Categorical(torch.arange(1.0, 5.0, dtype=torch.float64))
    theirs = torch.distributions.MixtureSameFamily(mix, parts).log_prob(x)
    torch.testing.assert_close(ours.log_density(x, 0.7), theirs)


def test_scores_of_classes_average_to_the_score_of_all():
    """sum_k q_k s_k = s, with the posterior probability q_k of each class."""
    ours, x, sigma = mixture(), points(7), 0.8
    posterior = ours.posterior(x, sigma)
    total = 0
    for label in (0, 1):
        share = posterior[:, ours.labels == label].sum(1, keepdim=True)
        total = total + share * ours.score(x, sigma, torch.full((7,), label))
    torch.testing.assert_close(total, ours.score(x, sigma), rtol=1e-12, atol=1e-12)


def test_what_is_drawn_has_its_mean_and_spread():
    ours = mixture()
    drawn = ours.draw(200_000, torch.Generator().manual_seed(0), sigma=0.5, label=1)
    chosen = ours.labels == 1
    weights = ours.log_weights[chosen].softmax(0)
    mean = weights @ ours.means[chosen]
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.01, rtol=0)
    spread = ours.axes @ torch.diag_embed(ours.variances) @ ours.axes.mT
    apart = ours.means[chosen] - mean
    expected = torch.einsum(
        "k,kde->de", weights, spread[chosen] + apart[:, :, None] * apart[:, None]
    )
    expected = expected + 0.25 * torch.eye(3)
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.02, rtol=0)


def test_images_keep_their_shape_and_classes_their_rows():
    ours, x = mixture(width=4), points(6, 4).view(6, 1, 2, 2)
    labels = torch.tensor([0, 1, -1, 0, 1, -1])
    together = ours(x, 0.5, labels)
    assert together.shape == x.shape
    for row in range(6):
        torch.testing.assert_close(
            ours(x[row : row + 1], 0.5, labels[row : row + 1]), together[row : row + 1]
        )
    torch.testing.assert_close(ours(x, 0.5)[2], together[2])


def test_one_variance_is_a_round_spread():
    means = points(3)
    round_ = Mixture(means, 0.3)
    full = Mixture(means, 0.3 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    torch.testing.assert_close(round_(points(5), 0.4), full(points(5), 0.4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariances": torch.zeros(2, 3, 3)}, r"covariances has shape \(2, 3, 3\); allowed is"),
        ({"covariances": -1.0}, "covariances has an eigenvalue of -1; allowed is above 0"),
        ({"weights": torch.ones(2)}, r"weights has shape \(2,\); allowed is \(4,\)"),
        ({"labels": torch.ones(2)}, r"labels has shape \(2,\); allowed is \(4,\)"),
    ],
)
def test_shapes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**{"means": torch.zeros(4, 3), "covariances": 1.0, **options})


def test_a_mixture_is_drawn_where_it_is():
    """The generator may be elsewhere."""
    assert mixture().to("meta").draw(5, sigma=0.5).device.type == "meta"
    one, other = (mixture().draw(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
