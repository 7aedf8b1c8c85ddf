"""FDG: its bands, and the pyramid that they come from."""

from itertools import pairwise

import pytest
import torch
from guiders import CFG, FDG
from guiders.guidance.terms.fdg import collapse, pyramid
from known import guide, pictures


def test_fdg_with_equal_scales_is_cfg():
    c, u = pictures(2, 0), pictures(2, 1)
    for shares in ((1,), (1, 1), (1, 1, 1)):
        same = guide(FDG(5, shares), c, u)[0]
        torch.testing.assert_close(same, guide(CFG(5), c, u)[0])


def test_fdg_scales_each_band_alone():
    flat = torch.ones(1, 1, 16, 16)
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float()[None, None] * 2 - 1
    zero = torch.zeros_like(flat)
    low = guide(FDG(11, (1, 0.3)), flat, zero)[0]
    torch.testing.assert_close(low, 4 * flat)  # 1 + 0.3 * 10
    high = guide(FDG(11, (1, 0.3)), board, zero)[0]
    inside = (..., slice(4, -4), slice(4, -4))  # the border repeats itself
    torch.testing.assert_close(high[inside], 11 * board[inside])


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 7, 10), (4, 2, 6, 6)])
def test_a_pyramid_is_collapsed_to_what_it_was(shape):
    image = pictures(2, 0, *shape)
    torch.testing.assert_close(collapse(pyramid(image, 3)), image)


@pytest.mark.parametrize("side", [8, 11])
def test_bands_stay_where_they_are(side):
    """A picture upside down has bands upside down; the low band of a dot lies where the dot is."""
    image = pictures(1, 0, 1, side, side)
    for levels in (2, 3):
        for band, other in zip(
            pyramid(image, levels), pyramid(image.flip(-1, -2), levels), strict=True
        ):
            torch.testing.assert_close(other, band.flip(-1, -2))
    if side == 11:
        return
    dots = torch.zeros(1, 1, 32, 32)
    dots[..., 15:17, 15:17] = 1
    low = collapse([torch.zeros(1, 1, 32, 32), *pyramid(dots, 3)[1:]])
    place = (low.sum(dim=2).squeeze() * torch.arange(32)).sum() / low.sum()
    assert place.item() == pytest.approx(15.5, abs=1e-3)


def usual_pyramid(image, levels):
    """OpenCV's and kornia's pyrDown and pyrUp, as convolutions, for sides that halve evenly."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=image.dtype) / 16
    kernel = torch.outer(line, line).expand(image.shape[1], 1, 5, 5)

    def blur(value):
        padded = torch.nn.functional.pad(value, (2, 2, 2, 2), mode="reflect")
        return torch.nn.functional.conv2d(padded, kernel, groups=len(kernel))

    def resize(value, factor):
        return torch.nn.functional.interpolate(value, scale_factor=factor, mode="bilinear")

    steps = [image]
    for _ in range(levels - 1):
        steps.append(resize(blur(steps[-1]), 0.5))
    return [a - blur(resize(b, 2.0)) for a, b in pairwise(steps)] + steps[-1:]


@pytest.mark.parametrize(("size", "levels"), [((16, 32), 3), ((24, 8), 2)])
def test_fdg_has_the_usual_pyramid(size, levels):
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).double()
    for ours, usual in zip(pyramid(image, levels), usual_pyramid(image, levels), strict=True):
        torch.testing.assert_close(ours, usual, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 3, 2), (1, 7, 5), (2, 3, 8, 9)])
def test_fdg_takes_pictures_of_any_size(shape):
    """The bands are all of the picture, and a constant is in the lowest alone."""
    image = pictures(2, 0, *shape)
    torch.testing.assert_close(collapse(pyramid(image, 2)), image)
    high, low = pyramid(torch.full_like(image, 3.0), 2)
    torch.testing.assert_close(low, torch.full_like(low, 3.0))
    assert high.abs().max() < 1e-6


def test_fdg_needs_pictures():
    with pytest.raises(ValueError, match=r"shape \(6, 4\); allowed are pictures"):
        guide(FDG(5), pictures(1, 0, 6, 4), pictures(1, 1, 6, 4))
    with pytest.raises(ValueError, match=r"shares: expected .*, got \(1, -1\)"):
        FDG(5, (1, -1))
