"""The two-dimensional example: the exact distribution, the training, and what guidance does."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[2] / "examples/autoguidance_2d"
sys.path.insert(0, str(HERE))

import train  # noqa: E402
from metrics import measure, sliced_distance  # noqa: E402
from mixture import OUTLINE, PEAK, Mixture  # noqa: E402
from network import LogDensity  # noqa: E402
from sampling import draw, generator, methods, start, trajectories  # noqa: E402


@pytest.fixture(scope="module")
def exact():
    return Mixture("A")


def moments(mixture):
    """Mean and standard deviation (2,) of the clean distribution, from its parameters."""
    along = mixture.along[None, :, None] * mixture.span[:, None]
    centres = mixture.middle[:, None] + along  # (branches, 8, 2)
    mean = (mixture.weight[:, None] * centres.mean(1)).sum(0)
    within = torch.einsum("bij,bj,bij->bi", mixture.axes, mixture.variance, mixture.axes)
    spread = ((centres - mean).square().mean(1) + within) * mixture.weight[:, None]
    return mean, spread.sum(0).sqrt()


def test_the_trees_are_those_of_the_paper(exact):
    assert len(exact) == 127
    by_depth = [exact.weight[exact.depth == depth].sum().item() for depth in range(7)]
    assert by_depth == pytest.approx([0.257, 0.151, 0.153, 0.162, 0.118, 0.087, 0.073], abs=5e-4)


def test_both_classes_have_mean_zero_and_spread_one_half():
    mean, spread = moments(Mixture("AB"))
    assert mean.abs().max() < 1e-3
    assert (spread - 0.5).abs().max() < 1e-3
    mean, spread = moments(Mixture("A"))
    torch.testing.assert_close(mean, torch.tensor([0.374, 0.363]).double(), atol=3e-3, rtol=0)
    torch.testing.assert_close(spread, torch.tensor([0.335, 0.343]).double(), atol=3e-3, rtol=0)


def test_the_density_has_its_peak_and_integrates_to_one():
    side = torch.linspace(-0.9, 1.5, 400)
    density = Mixture("A", torch.float32).log_density(torch.cartesian_prod(side, side)).double()
    assert density.max().item() == pytest.approx(PEAK, abs=1e-4)
    assert pytest.approx(-1.596, abs=5e-4) == OUTLINE
    assert density.exp().sum().item() * (2.4 / 399) ** 2 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("sigma", [0.002, 0.1, 5.0])
@pytest.mark.parametrize("classes", ["A", "AB"])
def test_the_score_is_the_gradient_of_the_log_density(classes, sigma):
    mixture = Mixture(classes)
    x = mixture.sample(700, sigma, generator(0)).requires_grad_()  # more than one slice
    gradient = torch.autograd.grad(mixture.log_density(x, sigma).sum(), x)[0]
    x = x.detach()
    torch.testing.assert_close(mixture.score(x, sigma), gradient)
    torch.testing.assert_close(mixture(x, sigma), x + sigma**2 * gradient)
    levels = torch.full((700,), sigma, dtype=torch.float64)
    torch.testing.assert_close(mixture.score(x, levels), gradient)
    single = Mixture(classes, torch.float32).score(x.float(), sigma)
    far = (single - mixture.score(x.float().double(), sigma)).norm(dim=1)
    assert sigma * far.max() < 1e-4  # as the loss counts it; a trained network's is about 0.1


def test_exact_samples_measure_as_they_should(exact):
    x, truth = (exact.sample(2**14, generator=generator(seed)) for seed in (3, 4))
    got = measure(x, exact, truth)
    assert got.outliers == pytest.approx(0.0143, abs=0.003)
    assert got.log_density == pytest.approx(1.348, abs=0.03)
    assert got.far < 0.001
    assert got.variation < 0.04
    assert got.lost == got.missed == 0
    assert got.transport < 0.02


def test_metrics_know_what_is_wrong(exact):
    truth = exact.sample(4096, generator=generator(0))
    trunk = exact.shares(truth).argmax(1) == 0
    lost = measure(truth[trunk].repeat(9, 1)[:4096], exact, truth)
    assert lost.lost > 0.9
    assert lost.variation == pytest.approx(1 - exact.weight[0].item(), abs=0.05)
    assert measure(truth + 0.5, exact, truth).outliers > 0.9
    assert sliced_distance(truth, truth + torch.tensor([3.0, 4.0])) == pytest.approx(5 / 2**0.5)
    with pytest.raises(ValueError, match="a and b"):
        sliced_distance(truth, truth[1:])


def test_a_new_network_is_a_normal_of_the_datas_spread():
    network, x = LogDensity(8), torch.randn(5, 2)
    torch.testing.assert_close(network.score(x, torch.full((5,), 2.0)), -x / 4.25)
    expected = x.double() * 0.25 / 4.25
    torch.testing.assert_close(network(x.double(), 2.0), expected, atol=1e-6, rtol=0)


def test_the_network_does_not_see_the_size_of_its_weights():
    network, sigma = LogDensity(16), torch.full((5,), 0.3)
    x = torch.randn(5, 2, generator=generator(0))
    torch.nn.init.ones_(network.gain)
    before = network.score(x, sigma)
    with torch.no_grad():
        network.layers[1].weight.mul_(7)
    torch.testing.assert_close(network.score(x, sigma), before, rtol=2e-3, atol=1e-2)
    network.normalise()
    size = network.layers[1].weight.square().mean(1)
    torch.testing.assert_close(size, torch.ones(16), rtol=1e-3, atol=0)


def test_the_recipe():
    assert train.average_power(0.010) == pytest.approx(96.995, abs=5e-4)
    assert train.learning_rate(0) == train.learning_rate(512) == 1e-2
    assert train.learning_rate(2048) == 5e-3


def test_training_learns_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "BATCH", 256)
    monkeypatch.setitem(train.RECIPES, "weak", train.Recipe("A", 16, 30))
    whole = train.train("weak", tmp_path / "whole", every=10)
    monkeypatch.setitem(train.RECIPES, "weak", train.Recipe("A", 16, 20))
    train.train("weak", tmp_path / "halves", every=10)
    monkeypatch.setitem(train.RECIPES, "weak", train.Recipe("A", 16, 30))
    resumed = train.train("weak", tmp_path / "halves", every=10)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    exact = Mixture("A", torch.float32)
    with torch.no_grad():
        losses = [train.step_loss(m, exact, generator(0)) for m in (whole, LogDensity(16))]
    assert losses[0] < 0.8 * losses[1]


@pytest.fixture(scope="module")
def outcomes(exact):
    """Metrics of 2048 samples of each method, from the same noise, with the networks that ship."""
    networks = train.load()
    x, truth = start(2048), exact.sample(2048, generator=generator(2))
    guiders = methods(networks["both"], networks["weak"])
    return {
        name: measure(draw(networks["main"], guider, x), exact, truth)
        for name, guider in guiders.items()
    }


def test_unguided_has_many_outliers_and_all_branches(outcomes):
    assert outcomes["unguided"].outliers > 0.08  # exact samples: 0.014
    assert outcomes["unguided"].far > 0.04  # exact samples: 0.0004
    assert outcomes["unguided"].missed < 0.05


def test_cfg_has_fewer_far_outliers_and_loses_branches(outcomes):
    assert outcomes["CFG"].far < 0.6 * outcomes["unguided"].far
    assert outcomes["CFG"].missed > 0.4
    assert outcomes["CFG"].variation > 0.5


def test_autoguidance_has_fewer_outliers_and_keeps_the_branches(outcomes):
    assert outcomes["autoguidance"].outliers < 0.75 * outcomes["unguided"].outliers
    assert outcomes["autoguidance"].far < 0.6 * outcomes["unguided"].far
    assert outcomes["autoguidance"].missed < 0.5 * outcomes["CFG"].missed
    assert outcomes["autoguidance"].variation < 0.5 * outcomes["CFG"].variation


def test_trajectories_begin_and_end_where_they_should(exact):
    x = exact.sample(50, 0.03, generator(0))
    ways = trajectories(exact, methods(exact, exact)["unguided"], x, 0.03)
    assert ways.shape == (33, 50, 2)
    assert torch.equal(ways[0], x)
    assert exact.log_density(ways[-1]).mean() > exact.log_density(x).mean()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--samples", "0"], "--samples: is 0; allowed is"),
        (["--weights", "nowhere"], "--weights: is nowhere; allowed is"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(arguments, complaint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["autoguidance_2d", *arguments])
    with pytest.raises(SystemExit):
        runpy.run_path(str(HERE), run_name="__main__")
    assert complaint in capsys.readouterr().err


def test_there_are_two_classes():
    with pytest.raises(ValueError, match="classes is 'C'; allowed is"):
        Mixture("C")
