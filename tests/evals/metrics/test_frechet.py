"""The Frechet distance against its formula, other programs' arithmetic and hard cases."""

import numpy as np
import pytest
import scipy.linalg
import torch
from features import sample
from guiders.evals import Moments, Streamed, frechet_distance
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.quick


def by_square_root(x, y):
    """The textbook formula, as pytorch-fid and EDM2 compute it."""
    root = scipy.linalg.sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)).real
    traces = np.trace(np.cov(x, rowvar=False)) + np.trace(np.cov(y, rowvar=False))
    return np.square(x.mean(0) - y.mean(0)).sum() + traces - 2 * np.trace(root)


def by_singular_values(x, y):
    """The trace of the root as the nuclear norm of the product of the centred features: no root of
    a singular matrix is taken."""
    a = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    b = (y - y.mean(0)) / np.sqrt(len(y) - 1)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return (
        np.square(x.mean(0) - y.mean(0)).sum() + np.square(a).sum() + np.square(b).sum() - 2 * cross
    )


def test_two_gaussians_on_a_line():
    # FD of N(0, 1) and N(3, 2^2) is 9 + (2 - 1)^2.
    a = Moments(torch.zeros(1).double(), torch.eye(1).double(), 9)
    b = Moments(torch.full((1,), 3.0).double(), 4 * torch.eye(1).double(), 9)
    assert frechet_distance(a, b) == pytest.approx(10, abs=1e-12)


def test_it_is_the_textbook_formula():
    x, y = sample(900, 64, 0), sample(700, 64, 1, shift=0.1)
    ours = frechet_distance(Moments.of(x), Moments.of(y))
    assert ours == pytest.approx(by_square_root(x, y), rel=1e-9)
    assert ours == pytest.approx(by_singular_values(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "dead"), [(40, 0), (300, 7), (40, 7)])
def test_fewer_pictures_than_features_and_dead_features(n, dead):
    x, y = sample(n, 96, 0, dead=dead), sample(n + 5, 96, 1, shift=0.1, dead=dead)
    ours = frechet_distance(Moments.of(x), Moments.of(y))
    assert ours == pytest.approx(by_singular_values(x, y), rel=1e-6)


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_distance_to_itself_is_zero_and_order_does_not_matter(seed, n, d):
    x, y = sample(n, d, seed), sample(n + 3, d, seed + 1, shift=0.3)
    a, b = Moments.of(x), Moments.of(y)
    size = float(a.covariance.trace())
    assert abs(frechet_distance(a, a)) < 1e-6 * max(size, 1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-5, abs=1e-6)
    assert frechet_distance(a, b) > 0


def test_batches_of_any_size_give_the_moments_of_the_whole():
    x = sample(500, 20, 3) + 1e4  # a mean that float32 sums would choke on
    streamed = Streamed()
    for part in np.split(x, [1, 7, 7, 200, 499]):
        streamed.add(part)
    whole = streamed.moments()
    assert whole.count == 500
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-11)


def test_statistics_are_written_as_others_read_them(tmp_path):
    x = sample(50, 8, 0)
    Moments.of(x).save(tmp_path / "a.npz", features=x.astype(np.float16))
    with np.load(tmp_path / "a.npz") as data:
        np.testing.assert_allclose(data["mu"], x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(data["sigma"], np.cov(x, rowvar=False), rtol=1e-12)
        assert data["features"].shape == (50, 8)
    back = Moments.load(tmp_path / "a.npz")
    assert back.count == 50
    assert frechet_distance(back, Moments.of(x)) == pytest.approx(0, abs=1e-12)
    np.savez(tmp_path / "fid.npz", mu=np.zeros(3), sigma=np.eye(3))  # pytorch-fid's
    assert Moments.load(tmp_path / "fid.npz").count == 0


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"features have shape \(3,\); allowed is \(N, D\)"):
        Moments.of(np.zeros(3))
    with pytest.raises(ValueError, match="features of 1 pictures; needed are at least 2"):
        Moments.of(np.zeros((1, 3)))
    streamed = Streamed()
    streamed.add(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"shape \(2, 5\); allowed is \(N, 3\)"):
        streamed.add(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="features of picture 5 are NaN or infinite"):
        streamed.add(np.array([[0, 0, 0], [0, np.nan, 0]]))
    with pytest.raises(ValueError, match="2 and 3 features"):
        frechet_distance(Moments.of(sample(9, 2, 0)), Moments.of(sample(9, 3, 0)))
    np.savez(tmp_path / "b.npz", mean=np.zeros(2))
    with pytest.raises(ValueError, match="hold mean; needed are mu and sigma"):
        Moments.load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", mu=np.zeros(2), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"allowed are \(D,\) and \(D, D\)"):
        Moments.load(tmp_path / "c.npz")
