"""KID and CMMD."""

import math

import numpy as np
import pytest
import torch
from features import sample
from guiders.evals.metrics.mmd import cmmd, gaussian, kid, polynomial
from torchmetrics.image.kid import maximum_mean_discrepancy, poly_mmd


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
