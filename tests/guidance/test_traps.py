"""What is easily got wrong: each naive form is written out, gives its own number, not ours."""

import math

import pytest
import torch
from guiders import APG, CFG, Adaptive, Interval
from guiders.guidance import NEGATIVE, Denoiser, Query, Readout
from known import Answers, guide, step

C, U = torch.tensor([[1.0, 2, 2]]), torch.tensor([[0.5, 1, -1]])


def orthogonal(gap, axis):
    return gap - (gap * axis).sum() / axis.square().sum() * axis


def test_the_update_is_added_to_the_conditional_prediction_with_scale_minus_one():
    """Diffusers returns u + w * update, the ComfyUI node in effect c + w * update."""
    update = orthogonal(C - U, C)
    diffusers, comfy = U + 3 * update, C + 3 * update
    torch.testing.assert_close(diffusers, torch.tensor([[-0.833333, -1.666667, 2.333333]]))
    torch.testing.assert_close(comfy, torch.tensor([[-0.333333, -0.666667, 5.333333]]))
    ours = guide(APG(3, eta=0, rescale=0, momentum=0), C, U)[0]
    torch.testing.assert_close(ours, torch.tensor([[0.111111, 0.222222, 4.222222]]))


def test_norms_are_those_of_the_whole_image_also_of_a_video():
    """The last three dimensions of (B, C, T, H, W) are less than it, and a batch is more."""
    c, u = (torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    ours = guide(APG(3, eta=0, rescale=1.0, momentum=0), c, u)[0]
    for row in range(2):
        gap = (c - u)[row]
        expected = c[row] + 2 * orthogonal(gap / gap.norm(), c[row])
        torch.testing.assert_close(ours[row], expected)
        frames = gap / gap.flatten(1).norm(dim=1)[:, None, None, None]
        naive = c[row] + 2 * orthogonal(frames, c[row])
        assert not torch.allclose(ours[row], naive, rtol=1e-2)


def test_projections_do_not_overflow_in_half_precision():
    c = torch.full((1, 4, 64, 64), 10.0, dtype=torch.float16)
    u = torch.full((1, 4, 64, 64), 9.0, dtype=torch.float16)
    u[..., ::2] = 8.0
    assert torch.isinf((c * c).sum(dtype=torch.float16)), "the naive form"
    ours = guide(APG(3, eta=0, rescale=0, momentum=0), c, u)[0]
    exact = guide(APG(3, eta=0, rescale=0, momentum=0), c.double(), u.double())[0]
    torch.testing.assert_close(ours, exact.half(), rtol=1e-3, atol=1e-3)


def test_the_space_of_the_projection_matters():
    """In eps the same numbers give another picture: the gap is scaled by sigma / alpha, the axis
    is not the clean image."""
    x = torch.tensor([[0.3, -0.2, 0.9]])
    at = step(sigma=2.0)
    readout = Readout(1 / at.level.alpha, -at.level.std / at.level.alpha)
    eps_c, eps_u = ((d - readout.skip * x) / readout.gain for d in (C, U))
    apg = APG(3, eta=0, rescale=0, momentum=0)
    ours = Denoiser(apg, 1)(Query(x, at), Answers(eps_c, eps_u, readout)).x0
    torch.testing.assert_close(ours, torch.tensor([[0.111111, 0.222222, 4.222222]]))
    naive = readout.x0(x, eps_c + 2 * orthogonal(eps_c - eps_u, eps_c))
    assert (naive - ours).norm() > 0.1


@pytest.mark.parametrize(("bounds", "expected"), [((0.28, 2.90), 16), ((0.2831, 2.902), 15)])
def test_published_bounds_of_intervals_are_rounded(bounds, expected):
    """EDM2's grid: taken literally, (0.28, 2.90] begins at step 16 of 32, meant is 15."""
    n, rho, low, high = 32, 7, 0.002, 80.0
    sigma = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    denoiser = Denoiser(CFG(Interval(2.1, *bounds)), 1)
    guided = [i for i in range(n) if NEGATIVE in denoiser.plan(step(i, n, sigma=sigma[i])).branches]
    assert guided[0] == expected
    assert guided[-1] == (22 if bounds[0] == 0.28 else 21)


def test_an_agreement_is_kept_though_the_cosine_falls_again():
    cosines, denoiser, asked = [0.5, 0.999, 0.2, 0.3], Denoiser(CFG(Adaptive(3, 0.99)), 1), []
    for i, value in enumerate(cosines):
        u = torch.tensor([[value, math.sqrt(1 - value**2)]])
        network = Answers(torch.tensor([[1.0, 0.0]]), u)
        denoiser(Query(u, step(i, 4)), network)
        asked.append(network.asked[NEGATIVE])
    assert asked == [1, 1, 0, 0]  # a test at each step would give 1, 1, 1, 1


def test_on_latent_models_eps_agrees_from_the_first_step_on():
    """Two eps that differ by one per cent pass 0.991, while the clean images are far apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 500, generator=generator)
    at = step(0, sigma=14.6)
    readout = Readout(1 / at.level.alpha, -at.level.std / at.level.alpha)
    eps = torch.randn(1, 500, generator=generator)
    other = eps + 0.02 * torch.randn(1, 500, generator=generator)
    stopped = {}
    for space in ("eps", "x0"):
        denoiser = Denoiser(CFG(Adaptive(5, 0.991, space)), 1)
        x_ = at.level.alpha * torch.zeros_like(x) + at.level.std * eps
        denoiser(Query(x_, at), Answers(eps, other, readout))
        stopped[space] = NEGATIVE not in denoiser.plan(step(1, sigma=10.0)).branches
    assert stopped == {"eps": True, "x0": False}


def test_several_weak_models_add_up():
    """D_m + sum_i (w_i - 1) (D_m - D_i), the appendix of autoguidance."""
    from guiders import WeakModel
    from guiders.guidance import Prediction

    weak = [torch.nn.Identity(), torch.nn.Identity()]
    outputs = {weak[0]: U, weak[1]: torch.tensor([[0.1, 0.2, 0.3]])}

    def network(q, requests):
        return {
            b: Prediction(q.x, C if b.model is None else outputs[b.model], Readout(0.0, 1.0))
            for b in requests
        }

    guider = CFG(2.5, reference=WeakModel(weak[0])) + CFG(1.3, reference=WeakModel(weak[1]))
    result = Denoiser(guider, 1)(Query(C, step()), network)
    expected = C + 1.5 * (C - outputs[weak[0]]) + 0.3 * (C - outputs[weak[1]])
    torch.testing.assert_close(result.output, expected)
    assert result.record.evaluations == [3]
