"""APG, and what is easily got wrong in it: each naive form gives its own number, not ours."""

import pytest
import torch
from guiders import APG, CFG
from guiders.guidance import Denoiser, Query, Readout
from hypothesis import given
from hypothesis import strategies as st
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


def test_apg_in_the_plane():
    c, u = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, -1.0]])
    assert guide(CFG(3), c, u)[0].tolist() == [[4.0, 2.0]]
    assert guide(APG(3, rescale=0, momentum=0), c, u)[0].tolist() == [[2.0, 2.0]]


def test_reverse_momentum_of_a_constant_gap_tends_to_two_thirds():
    c, u = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    sizes = [x[0, 0].item() - 1 for x in guide(APG(2, eta=1, rescale=0, momentum=-0.5), c, u, 8)]
    assert sizes[:4] == [1, 0.5, 0.75, 0.625]
    assert sizes[-1] == pytest.approx(2 / 3, abs=0.01)


def test_the_default_radius_is_the_papers_for_sdxl():
    assert APG().radius(4 * 128 * 128) == pytest.approx(15)
    assert APG(rescale=15).radius(7) == 15
    assert APG(rescale_rms=0.5).radius(16) == 2


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 20))
def test_one_number_has_no_orthogonal_part(c, u, scale):
    positive, negative = (
        torch.tensor([[c]], dtype=torch.float64),
        torch.tensor([[u]], dtype=torch.float64),
    )
    if abs(c) > 1e-3:
        got = guide(APG(scale, eta=0, rescale=0, momentum=0), positive, negative)[0]
        torch.testing.assert_close(got, positive)
