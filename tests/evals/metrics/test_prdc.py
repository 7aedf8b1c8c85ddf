"""Precision, recall, density and coverage."""

import numpy as np
import pytest
from features import sample
from guiders.evals.metrics.prdc import neighbours
from prdc import compute_prdc


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
