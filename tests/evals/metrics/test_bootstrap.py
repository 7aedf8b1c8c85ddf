"""Intervals that cover what they say."""

import numpy as np
import pytest
from guiders.evals import bootstrap


def test_it_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        estimate = bootstrap(generator.normal(loc=1.0, size=60), samples=300)
        hits += estimate.low <= 1.0 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    x = np.random.default_rng(1).normal(size=2000)
    estimate = bootstrap(x)
    half = 1.96 * x.std() / np.sqrt(len(x))
    assert estimate.value == pytest.approx(x.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.1)


def test_any_statistic_of_rows_and_the_same_seed_gives_the_same():
    x = np.random.default_rng(2).normal(size=(50, 3))
    a = bootstrap(x, lambda rows: rows.std(), samples=50)
    assert a == bootstrap(x, lambda rows: rows.std(), samples=50)
    assert a != bootstrap(x, lambda rows: rows.std(), samples=50, seed=1)
    assert str(bootstrap(np.ones(5))) == "1.000 (1.000 to 1.000)"


def test_a_centred_interval_holds_the_value_where_drawing_again_shifts_it():
    x = np.random.default_rng(3).normal(size=(60, 8))

    def smallest_spread(rows):  # of any direction: shrinks with every row that is drawn twice
        return np.linalg.eigvalsh(np.cov(rows, rowvar=False))[0]

    plain = bootstrap(x, smallest_spread, samples=300)
    centred = bootstrap(x, smallest_spread, samples=300, centred=True)
    assert plain.value > (plain.low + plain.high) / 2
    assert centred.low < centred.value < centred.high
    assert centred.high - centred.low == pytest.approx(plain.high - plain.low)


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="values are empty"):
        bootstrap(np.empty(0))
