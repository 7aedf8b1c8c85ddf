"""Figures of sets of features against other programs and against their definitions."""

import math

import numpy as np
import pytest
import torch
from guiders.evals import Moments, Streamed, frechet_distance
from guiders.evals.metrics import estimates
from guiders.evals.metrics.mmd import cmmd, gaussian, kid, polynomial
from guiders.evals.metrics.prdc import neighbours
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import maximum_mean_discrepancy, poly_mmd


def sample(n, d, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) / np.sqrt(d) + shift


def numbers(x):
    return torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))


def test_frechet_distance_is_torchmetrics():
    x, y = sample(600, 64, 0), sample(500, 64, 1, shift=0.1)
    theirs = float(_compute_fid(*numbers(x), *numbers(y)))
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(theirs, rel=1e-9)


def test_frechet_distance_is_torch_fidelitys_formula():
    # Its code needs torchvision; this is what metric_fid.py says: eigenvalues of S1 S2, as numpy
    # finds them, and the real part of the sum of their roots.
    x, y = sample(600, 48, 2), sample(500, 48, 3, shift=0.2)
    (mu1, s1), (mu2, s2) = ([z.numpy() for z in numbers(w)] for w in (x, y))
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).astype("complex128")).real.sum()
    theirs = np.square(mu1 - mu2).sum() + np.trace(s1) + np.trace(s2) - 2 * root
    assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("few", [(30, 400), (400, 30), (30, 40), (65, 64)])
def test_every_path_of_the_trace_is_the_reference_by_singular_values(few):
    n, m = few
    x, y = sample(n, 64, 0), sample(m, 64, 1, shift=0.1)
    a, b = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    traces = np.square(a).sum() + np.square(b).sum()
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    reference = np.square(x.mean(0) - y.mean(0)).sum() + traces - 2 * nuclear
    ours = frechet_distance(Moments.of(x), Moments.of(y))
    # Where pictures are fewer than features, it has roots of zeros that are rounding, 1e-8 each.
    assert ours == pytest.approx(reference, rel=1e-7)
    kept, other = Moments.of(x), Moments.of(y)
    bare = [Moments(z.mean, z.covariance, z.count) for z in (kept, other)]  # as from a file
    assert frechet_distance(*bare) == pytest.approx(reference, rel=1e-6)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_streams_of_several_processes_join(sizes, seed):
    x = sample(sum(sizes) + 2, 5, seed) + 100
    whole, joined = Streamed(), Streamed()
    whole.add(x)
    joined.add(x[:2])
    for part in np.split(x[2:], np.cumsum(sizes)[:-1]):
        other = Streamed()
        other.add(part)
        joined.merge(other)
    joined.merge(Streamed())
    a, b = joined.moments(), whole.moments()
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(a.covariance, b.covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "m", "k"), [(150, 200, 3), (90, 60, 5), (40, 40, 1)])
def test_neighbours_are_those_of_prdc(n, m, k):
    real, drawn = sample(m, 8, 0), 0.9 * sample(n, 8, 1, shift=0.3)
    theirs = compute_prdc(real, drawn, nearest_k=k)
    ours = neighbours(real, drawn, k)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(ours, name).mean() == pytest.approx(theirs[name], abs=1e-12), name
        assert 0 < theirs[name] < 2


def test_neighbours_by_their_definition_in_several_chunks(monkeypatch):
    monkeypatch.setattr("guiders.evals.metrics.prdc.CHUNK", 17)
    real, drawn = sample(70, 6, 2), sample(50, 6, 3, shift=0.4)
    k = 3
    own = np.sort(np.linalg.norm(real[:, None] - real, axis=2), axis=1)[:, k]
    theirs = np.sort(np.linalg.norm(drawn[:, None] - drawn, axis=2), axis=1)[:, k]
    across = np.linalg.norm(real[:, None] - drawn, axis=2)
    ours = neighbours(real, drawn, k)
    np.testing.assert_array_equal(ours.precision, (across <= own[:, None]).any(0))
    np.testing.assert_array_equal(ours.recall, (across <= theirs).any(1))
    np.testing.assert_allclose(ours.density, (across < own[:, None]).sum(0) / k)
    np.testing.assert_array_equal(ours.coverage, across.min(1) < own)


def test_the_boundary_is_within_for_precision_and_without_for_density():
    real = np.array([[0.0], [1.0], [2.0], [10.0]])
    drawn = np.array([[-1.0], [50.0], [51.0], [52.0]])  # at the radius of 0, which is 1
    near = neighbours(real, drawn, 1)
    assert near.precision[0] == 1
    assert near.density[0] == 0
    assert near.coverage.sum() == 0


def test_a_set_compared_with_itself():
    x = sample(60, 5, 0)
    near = neighbours(x, x)
    assert near.precision.mean() == near.recall.mean() == near.coverage.mean() == 1
    with pytest.raises(ValueError, match="k is 3, for 60 and 3 pictures"):
        neighbours(x, x[:3])
    with pytest.raises(ValueError, match=r"shapes \(60, 5\) and \(60, 4\)"):
        neighbours(x, x[:, :4])


def test_kid_is_torchmetrics():
    x, y = (torch.from_numpy(sample(n, 16, n)) for n in (80, 90))
    theirs = float(poly_mmd(x, y[:80], degree=3, gamma=None, coef=1.0))
    assert kid(x, y[:80], samples=0).value == pytest.approx(theirs, rel=1e-9)
    subsets = kid(x, y, subsets=300, subset_size=40, samples=0).value
    assert subsets == pytest.approx(kid(x, y, samples=0).value, rel=0.3)
    kernels = [polynomial(a, b) for a, b in ((x, x), (x, y[:80]), (y[:80], y[:80]))]
    assert kid(x, y[:80], samples=0).value == pytest.approx(
        float(maximum_mean_discrepancy(*kernels)), rel=1e-9
    )


def test_cmmd_is_its_definition_and_zero_for_the_same_set():
    x, y = (torch.from_numpy(sample(n, 16, n)) for n in (30, 40))
    a, b = (z / z.norm(dim=1, keepdim=True) for z in (x, y))

    def mean(p, q):
        return np.mean([[math.exp(-((u - v) ** 2).sum() / 200) for v in q] for u in p])

    expected = 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert cmmd(x, y).value == pytest.approx(expected, rel=1e-6)
    assert cmmd(x, x).value == pytest.approx(0, abs=1e-9)
    assert float(gaussian(a[:1], a[:1])) == 1


@pytest.mark.parametrize("discrepancy", [kid, cmmd])
def test_draws_are_the_figure_of_the_rows_drawn(discrepancy):
    x, y = (torch.from_numpy(sample(n, 6, n)) for n in (25, 30))
    found = discrepancy(x, y, samples=5)
    expected = [discrepancy(x[rows], y, samples=0).value for rows in estimates.drawn_again(25, 5)]
    np.testing.assert_allclose(found.draws, expected, rtol=1e-6)


def test_intervals_are_paired_by_picture():
    x = np.random.default_rng(0).normal(size=100)
    a, b = estimates.mean(x), estimates.mean(x + 1)
    assert b.minus(a).low == pytest.approx(1)
    assert b.minus(a).high == pytest.approx(1)
    assert a.estimate.low < a.value < a.estimate.high
    one = estimates.distance(torch.from_numpy(sample(50, 4, 0)), Moments.of(sample(90, 4, 1)))
    assert one.estimate.low < one.value < one.estimate.high
    assert estimates.distance(torch.randn(10, 4), Moments.of(sample(9, 4, 1)), 0).draws is None
    assert estimates.mean(x, 0).to_dict() == {"value": a.value, "low": None, "high": None}
