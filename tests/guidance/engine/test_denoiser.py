"""What must hold for every guider, on a network of known answers."""

import math
from dataclasses import dataclass

import pytest
import torch
from guiders import (
    APG,
    CFG,
    TCFG,
    Adaptive,
    CFGPlusPlus2M,
    CFGZeroStar,
    Cosine,
    Interval,
    Linear,
    MagnitudeAware,
    Rescale,
    Scale,
    WeakModel,
)
from guiders.guidance import POSITIVE, Branch, Denoiser, Query, Readout, foresee
from known import NEGATIVE, Answers, guide, step

GUIDERS = [
    CFG(7.5),
    CFG([3, 5, 1, 8]),
    APG(7.5),
    APG(7.5, eta=0.3, rescale=1, momentum=0.4),
    CFG(Interval(5, low=0.5, high=2)),
    CFG(Adaptive(5, threshold=0.2)),
    APG(Linear(1, 9)) + CFG(Cosine(3, 1)),
    CFG(5) + CFG(3) | Rescale(0.7),
    CFGZeroStar(5),
    TCFG(5),
    MagnitudeAware(5, alpha=0.5),
    CFGPlusPlus2M(Interval(0.6, low=0.9, high=3)),
]


def pictures(batch: int, seed: int) -> torch.Tensor:
    return torch.randn(batch, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def trajectory(guider, rows, dtype=torch.float32, readout=Readout(0.6, -0.8)):
    """Outputs of six steps with changing answers and noise levels, of the given images."""
    denoiser = Denoiser(guider, len(rows))
    outputs = []
    for i in range(6):
        network = Answers(
            pictures(4, 10 + i)[rows].to(dtype), pictures(4, 20 + i)[rows].to(dtype), readout
        )
        q = Query(pictures(4, i)[rows].to(dtype), step(i, 6, sigma=4 / (i + 1)))
        outputs.append(denoiser(q, network).output)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("guider", GUIDERS, ids=str)
def test_a_batch_is_a_loop(guider):
    together = trajectory(guider, [0, 1, 2, 3])
    for row in range(4):
        alone = guider
        if guider == CFG([3, 5, 1, 8]):
            alone = CFG([3, 5, 1, 8][row])
        torch.testing.assert_close(trajectory(alone, [row])[0], together[row])


@pytest.mark.parametrize("guider", GUIDERS, ids=str)
def test_a_second_run_is_the_first(guider):
    assert torch.equal(trajectory(guider, [0, 1, 2, 3]), trajectory(guider, [0, 1, 2, 3]))


@pytest.mark.parametrize(
    "guider", [CFG(1), APG(1), TCFG(1), CFG(1) + APG(1) | Rescale(1), CFG(Linear(1, 1))], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scale_one_is_the_positive_prediction_and_asks_for_nothing_else(guider, dtype):
    c, u = pictures(3, 0).to(dtype), pictures(3, 1).to(dtype)
    network = Answers(c, u)
    output = Denoiser(guider, 3)(Query(torch.zeros_like(c), step()), network).output
    assert torch.equal(output, c)
    assert network.asked == {POSITIVE: 3, NEGATIVE: 0}


def test_equal_predictions_are_returned_bit_for_bit():
    c = pictures(2, 0).half()
    for guider in (CFG(7.5), APG(9), CFG(3) + APG(4)):
        network = Answers(c, c.clone(), Readout(1.7, -0.3))
        assert torch.equal(Denoiser(guider, 2)(Query(c, step()), network).output, c)


def test_where_x0_does_not_depend_on_the_output_nothing_is_guided():
    c = pictures(2, 0)
    for guider in (CFG(7.5), APG(9) | Rescale(0.7)):
        network = Answers(c, pictures(2, 1), Readout(1.0, 0.0))  # a noise level of zero
        assert torch.equal(Denoiser(guider, 2)(Query(c, step()), network).output, c)


def test_only_the_images_that_need_it_are_evaluated():
    network = Answers(pictures(4, 0), pictures(4, 1))
    result = Denoiser(CFG([7, 1, 1, 3]), 4, cosines=True)(Query(pictures(4, 2), step()), network)
    assert network.asked == {POSITIVE: 4, NEGATIVE: 2}
    assert result.record.evaluations == [2, 1, 1, 2]
    assert result.record.skipped == [1, 2]
    assert [math.isnan(x) for (x,) in result.record.cosines] == [False, True, True, False]
    assert torch.equal(result.output[1:3], pictures(4, 0)[1:3])


def test_the_cosine_of_each_term_does_not_depend_on_the_others():
    c, u, x = (pictures(3, seed) for seed in range(3))
    network = Answers(c, u)
    weak = Branch("positive", "weak")
    network.outputs[weak], network.asked[weak] = 0.9 * c + 0.1 * u, 0
    strong, against = CFG([5, 1, 5]), APG(2, reference=WeakModel("weak"))

    def cosines(guider):
        return Denoiser(guider, 3, cosines=True)(Query(x, step()), network).record.cosines

    for one, other in ((strong, against), (against, strong)):
        for both, first, second in zip(
            cosines(one + other), cosines(one), cosines(other), strict=True
        ):
            assert both == pytest.approx((*first, *second), nan_ok=True)
    known = torch.cosine_similarity(c.flatten(1), u.flatten(1))
    assert [cosine for (cosine,) in cosines(strong)] == pytest.approx(
        [float(known[0]), math.nan, float(known[2])], nan_ok=True
    )


def test_terms_share_a_branch():
    network = Answers(pictures(2, 0), pictures(2, 1))
    result = Denoiser(CFG(3) + APG([1, 4]), 2)(Query(pictures(2, 2), step()), network)
    assert network.asked == {POSITIVE: 2, NEGATIVE: 2}
    assert result.record.scales == [(3, 1), (3, 4)]


def test_terms_add():
    c, u = pictures(2, 0), pictures(2, 1)
    both = guide(CFG(3) + CFG(2.5), c, u)[0]
    torch.testing.assert_close(both, guide(CFG(4.5), c, u)[0])


def test_a_guider_for_each_prompt():
    c, u = pictures(4, 0), pictures(4, 1)
    mixed = guide([CFG(3), APG(9)], c, u, times=3)[-1]
    torch.testing.assert_close(mixed[:2], guide(CFG(3), c[:2], u[:2], 3)[-1])
    torch.testing.assert_close(mixed[2:], guide(APG(9), c[2:], u[2:], 3)[-1])
    with pytest.raises(ValueError, match="3 for a batch of 4 images"):
        Denoiser([CFG(3)] * 3, 4)


def test_a_scale_for_each_prompt_or_each_image():
    c, u = pictures(4, 0), pictures(4, 1)
    torch.testing.assert_close(guide(CFG([3, 9]), c, u)[0], guide(CFG([3, 3, 9, 9]), c, u)[0])
    with pytest.raises(ValueError, match="got 3 for a batch of 4"):
        guide(CFG([1, 2, 3]), c, u)


def test_later_stages_read_the_momentum_of_the_step_before_and_keep_the_plan():
    """Heun: stage 1 uses gap_2 + beta * m_(k-1) and does not store it."""
    u = torch.zeros(1, 2)
    denoiser = Denoiser(APG(2, eta=1, rescale=0, momentum=-0.5), 1)
    gaps = {(0, 0): 1.0, (1, 1): 10.0, (2, 0): 2.0, (3, 1): 20.0}
    got = []
    for (index, stage), gap in gaps.items():
        network = Answers(torch.tensor([[gap, 0.0]]), u)
        out = denoiser(Query(u, step(index, 4, stage)), network).output
        got.append(out[0, 0].item() - gap)
    # m: 1 | 10 (before the first step there is none) | 2 - .5 * 1 | 20 - .5 * 1, not 20 - .5 * 1.5
    assert got == [1.0, 10.0, 1.5, 19.5]


def test_an_interval_is_decided_at_the_first_stage():
    denoiser = Denoiser(CFG(Interval(5, low=1.0, high=3.0)), 1)
    inside = [
        NEGATIVE in denoiser.plan(step(0, 4, 0, sigma=2.0)).branches,
        NEGATIVE in denoiser.plan(step(1, 4, 1, sigma=0.5)).branches,  # same step, lower level
        NEGATIVE in denoiser.plan(step(2, 4, 0, sigma=0.5)).branches,
        NEGATIVE in denoiser.plan(step(3, 4, 1, sigma=0.1)).branches,
    ]
    assert inside == [True, True, False, False]


def test_skipped_images_keep_their_momentum():
    """Image 1 is guided at the first and third step only; its memory waits."""

    def scale(s):
        return [5.0, 1.0 if s.index == 1 else 5.0]

    def gaps(guider):
        denoiser, out = Denoiser(guider, 2), []
        for i, gap in enumerate((1.0, 2.0, 4.0)):
            c = torch.full((2, 1), gap)
            network = Answers(c, torch.zeros(2, 1))
            out.append(
                ((denoiser(Query(c, step(i, 3)), network).output - c) / 4).flatten().tolist()
            )
        return out

    assert gaps(APG(scale, eta=1, rescale=0, momentum=-0.5)) == [[1, 1], [1.5, 0], [3.25, 3.5]]


def test_what_is_foreseen_is_the_most_a_run_can_cost():
    steps = [step(i, 10, sigma=10 - i) for i in range(10)]

    def most(guider):
        plans = foresee(guider, steps, 2)
        return sum(len(rows) for plan in plans for rows in plan.values()) / 2

    assert most(CFG(5)) == 20
    assert most(CFG(1)) == 10
    assert most(CFG(Interval(5, low=3, high=7))) == 14
    assert most(CFG(Adaptive(5))) == 20
    assert most([CFG(5), CFG(1)]) == 15


def test_half_precision_rounds_once():
    c, u = pictures(2, 0).bfloat16(), pictures(2, 1).bfloat16()
    exact = c.double() + 6.5 * (c.double() - u.double())
    assert torch.equal(guide(CFG(7.5), c, u)[0], exact.bfloat16())


def test_gradients_flow_through_every_guider():
    for guider in GUIDERS[:1] + GUIDERS[2:]:
        c = pictures(2, 0).requires_grad_()
        u = pictures(2, 1).requires_grad_()
        guide(guider, c, u, times=2)[-1].sum().backward()
        assert c.grad is not None
        assert c.grad.isfinite().all()


def test_mistakes_in_a_method_of_ones_own_are_said():
    @dataclass(frozen=True)
    class Summed(CFG):
        def delta(self, q, positive, reference, scale, state):
            return (positive - reference).tensor().sum()

    @dataclass(frozen=True)
    class OneNumber(Scale):
        def at(self, step, state):
            return 3.0

    c, u = pictures(2, 0), pictures(2, 1)
    with pytest.raises(
        ValueError, match=r"Summed.delta: expected a Vector or a tensor of shape .*, got \(\)"
    ):
        guide(Summed(3), c, u)
    with pytest.raises(ValueError, match=r"OneNumber.at gave 3.0; allowed is a list of 2"):
        guide(CFG(OneNumber()), c, u)
    with pytest.raises(ValueError, match="inside its method"):
        APG(8) + Adaptive(3)
    with pytest.raises(ValueError, match="joined with"):
        APG(8) + Rescale()
