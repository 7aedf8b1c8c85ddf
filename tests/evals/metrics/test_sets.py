"""Figures of sets of features against other programs and against their definitions."""

import math

import numpy as np
import pytest
import torch
from features import sample
from guiders.evals import Moments, Streamed, frechet_distance
from guiders.evals.metrics import estimates
from guiders.evals.metrics.mmd import cmmd, kid
from guiders.evals.metrics.prdc import neighbours
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.fid import _compute_fid


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


def test_a_set_compared_with_itself():
    x = sample(60, 5, 0)
    near = neighbours(x, x)
    assert near.precision.mean() == near.recall.mean() == near.coverage.mean() == 1
    with pytest.raises(ValueError, match="k is 3, for 60 and 3 pictures"):
        neighbours(x, x[:3])
    with pytest.raises(ValueError, match=r"shapes \(60, 5\) and \(60, 4\)"):
        neighbours(x, x[:, :4])


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
