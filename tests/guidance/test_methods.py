"""Known answers of the smaller methods."""

import math
from itertools import pairwise

import pytest
import torch
from guiders import (
    CADS,
    CFG,
    FDG,
    Adaptive,
    CFGPlusPlus,
    CFGZeroStar,
    DynamicThreshold,
    EnergyPreserving,
    Interval,
    Stale,
    StepAG,
    ZeroInit,
)
from guiders.guidance import NEGATIVE, POSITIVE, Context, Denoiser, Level, Query, Readout, Step
from guiders.guidance.engine.noise import Noise
from guiders.guidance.engine.state import State
from guiders.guidance.terms.fdg import collapse, pyramid
from known import Answers, guide, step


def pictures(batch, seed, *shape):
    shape = shape or (2, 8, 8)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


# When


def test_step_ag_guides_the_first_share_of_the_evaluations():
    def guided(share, total=10):
        denoiser = Denoiser(CFG(StepAG(5, share)), 1)
        return [NEGATIVE in denoiser.plan(step(i, total)).branches for i in range(total)]

    assert guided(0.3) == [True] * 3 + [False] * 7
    assert guided(0) == [False] * 10
    assert guided(1) == [True] * 10
    assert sum(guided(0.5, total=5)) == 2  # 2.5 is rounded to the even number


def test_cfg_plus_plus_as_a_schedule():
    """Appendix vector: lambda 0.6, alpha-bar .5 -> .8, x = (1, 1, 1), eps c = (1, 2, 2) and
    u = (.5, 1, -1)."""
    c, u, x = torch.tensor([[1.0, 2, 2]]), torch.tensor([[0.5, 1, -1]]), torch.ones(1, 3)
    now, then = (Level(math.sqrt(a), math.sqrt(1 - a)) for a in (0.5, 0.8))
    network = Answers(c, u, Readout(1 / now.alpha, -now.std / now.alpha))
    at = Step(0, 2, 0, now, then)
    denoiser = Denoiser(CFG(CFGPlusPlus(0.6)), 1)
    eps = denoiser(Query(x, at), network).output
    x0 = (x - now.std * eps) / now.alpha
    after = then.alpha * x0 + then.std * eps  # plain DDIM
    expected = torch.tensor([[0.772976, 0.281041, 0.102156]])
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)
    assert CFG(CFGPlusPlus(0.6)).scale.at(at, State(1)) == pytest.approx([1.2])
    last = Step(1, 2, 0, now, None)  # to the clean image: lambda itself
    assert CFG(CFGPlusPlus(0.6)).scale.at(last, State(1)) == [0.6]


def agreeing(guider, cosines):
    """Outputs and evaluations of steps whose two predictions have the given cosines."""
    denoiser, out = Denoiser(guider, 1), []
    for i, value in enumerate(cosines):
        c = torch.tensor([[1.0, 0.0]])
        u = torch.tensor([[value, math.sqrt(1 - value * value)]])
        network = Answers(c, u)
        result = denoiser(Query(c, step(i, len(cosines))), network)
        out.append((result.output[0].tolist(), network.asked[NEGATIVE]))
    return out


def test_the_stale_difference_is_kept_from_the_step_that_agreed():
    found = agreeing(CFG(3, reference=Stale(0.99)), [0.5, 0.995, 0.2, -0.7])
    assert [asked for _, asked in found] == [1, 1, 0, 0]
    kept = [1 + 2 * (1 - 0.995), -2 * math.sqrt(1 - 0.995**2)]
    for output, _ in found[1:]:  # the cosine falls again, and nobody looks
        assert output == pytest.approx(kept, abs=1e-6)


def test_stale_with_an_unreachable_threshold_is_what_is_inside():
    cosines = [0.5, 0.999, 0.9999, 0.3]
    assert agreeing(CFG(3, reference=Stale(1)), cosines) == agreeing(CFG(3), cosines)


def test_stale_keeps_images_apart():
    denoiser = Denoiser(CFG(3, reference=Stale(0.9)), 2)
    c = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    first = torch.tensor([[1.0, 0.1], [0.0, 1.0]])  # only the first agrees
    network = Answers(c, first)
    denoiser(Query(c, step(0)), network)
    network = Answers(c, torch.tensor([[0.0, 9.0], [0.5, 0.5]]))
    out = denoiser(Query(c, step(1)), network).output
    assert network.asked[NEGATIVE] == 1
    torch.testing.assert_close(out, torch.tensor([[1.0, -0.2], [2.0, -1.0]]))


def test_a_threshold_for_each_space():
    assert [Adaptive(3, space=s).threshold for s in ("x0", "eps", "output")] == [
        0.999, 0.991, 0.991,
    ]  # fmt: skip
    assert Stale().threshold == 0.999


# How


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
    with pytest.raises(ValueError, match=r"shares is \(1, -1\)"):
        FDG(5, (1, -1))


# After and before


def test_dynamic_thresholding():
    c = torch.tensor([[0.5, -0.5, 0.2, 0.1], [0.1, 0.1, -0.1, 0.0]])
    u = torch.zeros_like(c)
    plain = guide(CFG(4), c, u)[0]  # (2, -2, .8, .4) and within [-1, 1]
    out = guide(CFG(4) | DynamicThreshold(1.0), c, u)[0]
    torch.testing.assert_close(out[0], torch.tensor([1.0, -1.0, 0.4, 0.2]))
    torch.testing.assert_close(out[1], plain[1])
    median = guide(CFG(4) | DynamicThreshold(0.5, limit=0.7), c, u)[0]  # of .4 .8 2 2: 1.4
    torch.testing.assert_close(median[0], torch.tensor([0.7, -0.7, 0.4, 0.2]))


def test_the_energy_is_that_of_the_conditional_image():
    c, u = pictures(3, 0), pictures(3, 1)
    out = guide(CFG(6) | EnergyPreserving(), c, u)[0]
    energy = [x.square().sum(dim=(1, 2, 3)) for x in (out, c)]
    torch.testing.assert_close(*energy)
    plain = guide(CFG(6), c, u)[0]
    cosine = torch.cosine_similarity(out.flatten(1), plain.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3))
    c, u = pictures(3, 0, 3, 64, 64), pictures(3, 1, 3, 64, 64)
    robust = guide(CFG(6) | EnergyPreserving(45, 55), c, u)[0]
    middle = [x.square().flatten(1).median(dim=1).values for x in (robust, c)]
    torch.testing.assert_close(*middle, rtol=0.01, atol=0)


def flow(index, sigma, total=4):
    return Step(index, total, 0, Level(1 - sigma, sigma))


def test_zero_init_moves_nothing_and_asks_for_nothing():
    c, u = pictures(2, 0), pictures(2, 1)
    denoiser = Denoiser([CFGZeroStar(5) | ZeroInit(), CFG(5)], 2)
    network = Answers(c, u, Readout(1.0, -0.9))
    result = denoiser(Query(c, flow(0, 0.9)), network)
    assert result.output[0].abs().max() == 0
    assert result.output[1].abs().max() > 0
    assert network.asked == {POSITIVE: 1, NEGATIVE: 1}
    assert result.record.evaluations == [0, 2]
    network = Answers(c, u, Readout(1.0, -0.6))
    assert denoiser(Query(c, flow(1, 0.6)), network).record.evaluations == [2, 2]
    alone = Denoiser(CFG(5) | ZeroInit(2), 2)(Query(c, flow(0, 0.9)), Answers(c, u))
    assert alone.output.abs().max() == 0
    assert alone.record.evaluations == [0, 0]


def test_zero_init_is_for_flows():
    with pytest.raises(ValueError, match="allowed are flows"):
        guide(CFG(5) | ZeroInit(), pictures(1, 0), pictures(1, 1))
    zero_snr = Step(0, 4, 0, Level(0.0, 1.0), Level(0.3, math.sqrt(1 - 0.09)))
    with pytest.raises(ValueError, match="allowed are flows"):
        Denoiser(CFG(5) | ZeroInit(), 1).plan(zero_snr)


def test_zero_init_counts_solver_steps():
    denoiser = Denoiser(CFG(5) | ZeroInit(2), 1)
    stages = [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1)]
    asked = [
        denoiser.plan(Step(i, 6, stage, Level(0.1 * i, 1 - 0.1 * i))).branches[POSITIVE]
        for i, stage in stages
    ]
    assert asked == [[], [], [], [], [0], [0]]


def test_cads():
    """sqrt(g) y + s sqrt(1 - g) n, then the mean and spread of y."""
    y, n = pictures(2, 0, 5, 4), pictures(2, 1, 5, 4)
    late, early, middle = step(9, 11), step(0, 11), step(2, 11)  # times .1, 1, .8
    cads = CADS(low=0.7, high=0.9, noise_scale=0.5, rescale=0)
    assert torch.equal(cads.tell(late, y, n), y)
    torch.testing.assert_close(cads.tell(early, y, n), 0.5 * n)
    half = math.sqrt(0.5)
    torch.testing.assert_close(cads.tell(middle, y, n), half * y + 0.5 * half * n)
    kept = cads.replace(rescale=1).tell(early, y, n)
    for row in range(2):
        torch.testing.assert_close(kept[row].mean(), y[row].mean())
        torch.testing.assert_close(kept[row].std(), y[row].std())


def test_the_noise_of_an_image_does_not_depend_on_its_batch():
    x, y = pictures(3, 0), pictures(3, 1, 5, 4)

    def told(rows):
        denoiser = Denoiser(CFG(3) | CADS(noise_scale=1), len(rows))
        return denoiser.plan(step(0)).embedding(x[rows], "text", y[rows], range(len(rows)))

    together = told([0, 1, 2])
    torch.testing.assert_close(told([1]), together[1:2])  # its mean and spread are sums
    assert torch.equal(told([0, 1, 2]), together)
    noise = Noise().like(torch.zeros(3, 5, 4), x, range(3), "text")
    assert (noise[0] - noise[1]).abs().mean() > 0.5
    other = Noise().like(torch.zeros(3, 5, 4), x + 1, range(3), "text")

    class Known(Context):
        seeds = (7, 8, 7)

    known = [Noise(Known()).like(torch.zeros(3, 5), x + i, range(3), "text") for i in (0, 1)]
    assert torch.equal(*known)  # whatever the latents are
    assert torch.equal(known[0][0], known[0][2])
    assert not torch.equal(known[0][0], known[0][1])
    assert (noise - other).abs().mean() > 0.5


def test_bounds_are_checked_by_name():
    for make, words in (
        (lambda: StepAG(3, share=2), "share is 2"),
        (lambda: CFGPlusPlus(7), "lam is 7"),
        (lambda: ZeroInit(1.5), "steps is 1.5"),
        (lambda: CADS(low=0.9, high=0.5), "high is 0.5"),
        (lambda: EnergyPreserving(60, 40), "high is 40"),
        (lambda: DynamicThreshold(limit=0), "limit is 0"),
        (lambda: Stale(of=Interval(3)), "of is Interval"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
