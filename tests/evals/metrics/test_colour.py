"""Figures of pictures whose figures are known."""

import colorsys

import numpy as np
import pytest
from guiders.evals import clipped, contrast, saturation
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytestmark = pytest.mark.quick


def plain(*rgb):
    return Image.new("RGB", (4, 3), rgb)


def test_plain_colours():
    pictures = [plain(255, 0, 0), plain(0, 0, 0), plain(255, 255, 255), plain(200, 100, 100)]
    assert saturation(pictures).tolist() == [1, 0, 0, 0.5]
    assert contrast(pictures).tolist() == pytest.approx([0, 0, 0, 0], abs=1e-12)
    assert clipped(pictures).tolist() == [1, 1, 1, 0]


def test_half_black_half_white():
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0] = 255
    assert contrast([picture])[0] == pytest.approx(0.5)
    assert clipped([np.full((1, 1, 3), 2, np.uint8)])[0] == 0


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_saturation_is_that_of_hsv(rgb):
    expected = colorsys.rgb_to_hsv(*(x / 255 for x in rgb))[1]
    assert saturation([plain(*rgb)])[0] == pytest.approx(expected)


def test_only_pictures():
    for figure in (saturation, contrast, clipped):
        with pytest.raises(ValueError, match=r"shape \(3, 8, 8\)"):
            figure([np.zeros((3, 8, 8), np.uint8)])
        with pytest.raises(ValueError, match="float64"):
            figure([np.zeros((8, 8, 3))])
