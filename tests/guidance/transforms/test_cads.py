"""CADS: what the positive branch is told, and the noise in it."""

import math

import torch
from guiders import CADS, CFG
from guiders.guidance import Context, Denoiser
from guiders.guidance.engine.noise import Noise
from known import pictures, step


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
