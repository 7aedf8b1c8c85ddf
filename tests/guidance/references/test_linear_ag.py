"""LinearAG on processes whose second prediction is known."""

import dataclasses
import json

import pytest
import torch
from guiders import CFG, Adaptive, LinearAG, Negative
from guiders.guidance import APG, POSITIVE, Coefficients, Denoiser, Guider, Query, Readout, foresee
from guiders.guidance.engine.predictions import Prediction
from guiders.guidance.references.linear_ag import half_and_half, run_before
from known import NEGATIVE, step
from safetensors.torch import save_file

T = 8
SIGMAS = [8 / (i + 1) ** 1.5 for i in range(T)]
READOUT = Readout(0.6, -0.8)


def coefficients(space="eps", scale=7.5, policy=None, history=3, seed=0):
    policy = half_and_half(T) if policy is None else policy
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(T, 2 * history + 1, dtype=torch.float64)
    for index, word in enumerate(policy):
        if word == "estimate":
            count = 2 * min(history, run_before(policy, index)) + 1
            weights[index, :count] = torch.randn(count, generator=generator, dtype=torch.float64)
    return Coefficients(weights, tuple(SIGMAS), tuple(policy), scale, space)


def at(index, total=T, stage=0, factor=1.0):
    return step(index, total, stage, sigma=SIGMAS[min(index, T - 1)] * factor)


def pictures(index, batch=3):
    generator = torch.Generator().manual_seed(index)
    return torch.randn(batch, 2, 3, 3, generator=generator, dtype=torch.float64)


def as_output(x, value, level, space):
    """The network's output that means this eps, x0 or output."""
    if space == "output":
        return value
    x0 = (x - level.std * value) / level.alpha if space == "eps" else value
    return (x0 - READOUT.skip * x) / READOUT.gain


class Process:
    """c is random; u is too at true steps, and at others what the coefficients say it is."""

    def __init__(self, known, batch=3):
        self.outputs, self.asked = [], {POSITIVE: 0, NEGATIVE: 0}
        past = []
        for index in range(T):
            x, level = pictures(100 + index, batch), at(index).level
            c, u = pictures(200 + index, batch), pictures(300 + index, batch)
            if known.policy[index] == "estimate":
                first, *others = known.weights[index].tolist()
                u = first * c
                for weight, earlier in zip(others, past, strict=False):
                    u = u + weight * earlier
            past = [c, u, *past]
            branches = {POSITIVE: c, NEGATIVE: u}
            outputs = {b: as_output(x, v, level, known.space) for b, v in branches.items()}
            self.outputs.append((x, outputs))

    def walk(self, guider, rows=(0, 1, 2)):
        """The guided outputs (rows, steps, ...) and the records."""
        denoiser, outputs, records = Denoiser(guider, len(rows)), [], []
        for index in range(T):
            x, answers = self.outputs[index]

            def network(q, requests, answers=answers):
                said = {}
                for branch, wanted in requests.items():
                    self.asked[branch] += len(wanted)
                    output = answers[branch][list(rows)][wanted]
                    said[branch] = Prediction(q.x[wanted], output, READOUT)
                return said

            result = denoiser(Query(x[list(rows)], at(index)), network)
            outputs.append(result.output)
            records.append(result.record)
        return torch.stack(outputs, 1), records


@pytest.mark.parametrize("space", ["eps", "x0", "output"])
def test_where_u_is_linear_in_what_was_seen_it_is_cfg_for_fewer_evaluations(space):
    known = coefficients(space)
    process = Process(known)
    got, records = process.walk(CFG(7.5, reference=LinearAG(known)))
    assert process.asked == {POSITIVE: 3 * T, NEGATIVE: 3 * 2}
    want, _ = process.walk(CFG(lambda s: 7.5 if s.index < T / 2 else 1))
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    assert [record.scales[0] for record in records] == [(7.5,)] * 4 + [(1,)] * 4
    assert [record.evaluations for record in records] == [[2] * 3, [1] * 3] * 2 + [[1] * 3] * 4
    assert records[-1].skipped == [0, 1, 2]


def test_twenty_steps_cost_25_evaluations():
    policy = half_and_half(20)
    fit = Coefficients(torch.zeros(20, 1), tuple(range(20, 0, -1)), policy, 5.0)
    steps = [step(i, 20, sigma=20 - i) for i in range(20)]
    plans = foresee(CFG(5, reference=LinearAG(fit)), steps, 2)
    assert sum(len(rows) for plan in plans for rows in plan.values()) / 2 == 25
    assert half_and_half(5) == ("true", "estimate", "true", "none", "none")


def test_an_estimate_stands_for_u_in_later_ones():
    """u_1 = 2 u_0 and u_3 = 3 u_1, whatever the network would say of it."""
    weights = torch.zeros(T, 5, dtype=torch.float64)
    weights[1, 2], weights[3, 4] = 2, 3
    fit = Coefficients(weights, tuple(SIGMAS), half_and_half(T), 2.0, "output")
    process = Process(fit)
    got, _ = process.walk(CFG(2, reference=LinearAG(fit)))
    c, u0 = process.outputs[3][1][POSITIVE], process.outputs[0][1][NEGATIVE]
    torch.testing.assert_close(got[:, 3], 2 * c - 6 * u0)


def test_it_serves_other_terms_and_a_batch_is_a_loop():
    known = coefficients()
    process = Process(known)
    for guider in (
        CFG(7.5, reference=LinearAG(known)),
        APG(7.5, reference=LinearAG(known)),
        CFG(Adaptive(7.5, threshold=0.2), reference=LinearAG(known)),
    ):
        together, _ = process.walk(guider)
        for row in range(3):
            torch.testing.assert_close(process.walk(guider, [row])[0][0], together[row])


def test_images_that_are_not_guided_at_all_are_left_alone():
    known = coefficients()
    process = Process(known)
    got, _ = process.walk(CFG([7.5, 1, 7.5], reference=LinearAG(known)))
    torch.testing.assert_close(got, process.walk(CFG([7.5, 1, 7.5], reference=LinearAG(known)))[0])
    assert torch.equal(got[1], process.walk(CFG(1), [1])[0][0])
    torch.testing.assert_close(got[[0]], process.walk(CFG(7.5, reference=LinearAG(known)), [0])[0])


def test_a_gap_in_the_past_is_said():
    known = coefficients()

    def scale(s):
        return [1.0, 7.5, 7.5] if s.index == 2 else 7.5

    with pytest.raises(ValueError, match=r"step 3 needs steps 0 to 2 guided, .* not at step 2"):
        Process(known).walk(CFG(scale, reference=LinearAG(known)))
    short = coefficients(history=0)  # the estimate is of c alone, and needs no past
    Process(short).walk(CFG(scale, reference=LinearAG(short)))


def test_another_run_than_the_one_fitted_is_refused_before_it_begins():
    known = coefficients()

    def begin(guider, steps):
        foresee(guider, steps, 3)

    guider = CFG(7.5, reference=LinearAG(known))
    begin(guider, [at(i) for i in range(T)])
    words = "sigma is 8.8 at evaluation 0; allowed is 8: its fit is for 8 evaluations from sigma 8"
    with pytest.raises(ValueError, match=words):
        begin(guider, [at(i, factor=1.1) for i in range(T)])
    with pytest.raises(ValueError, match="the run has 9 evaluations; allowed is 8: "):
        begin(guider, [at(i, total=9) for i in range(9)])
    with pytest.raises(ValueError, match="evaluation 1 is a further stage of a solver step"):
        begin(guider, [at(0), at(1, stage=1)])
    with pytest.raises(ValueError, match=r"scale is 4 at evaluation 0; allowed is 7.5: "):
        begin(CFG(4, reference=LinearAG(known)), [at(i) for i in range(T)])


def test_a_file_and_json(tmp_path):
    known = dataclasses.replace(coefficients("x0"), notes={"paths": "200"})
    path = tmp_path / "coef.safetensors"
    known.save(path)
    guider = CFG(7.5, reference=LinearAG(path))
    again = Guider.from_dict(json.loads(json.dumps(guider.to_dict())))
    assert again == guider
    fit = again.reference.fit
    assert torch.equal(fit.weights, known.weights)
    assert (fit.sigma, fit.policy, fit.scale, fit.space, dict(fit.notes)) == (
        known.sigma, known.policy, 7.5, "x0", {"paths": "200"},
    )  # fmt: skip
    process = Process(known)
    assert torch.equal(process.walk(again)[0], process.walk(CFG(7.5, reference=LinearAG(known)))[0])
    assert str(guider) == f"CFG scale 7.5, reference linear estimate, {path}"


def test_what_is_no_such_file_is_refused(tmp_path):
    (tmp_path / "text").write_text("no")
    save_file({"weights": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("missing", "text", "other.safetensors"):
        with pytest.raises(
            ValueError, match=f"coefficients: expected a file writ.*, got .*{name}.*"
        ):
            LinearAG(tmp_path / name)
    for value in (None, "", 3, Negative()):
        with pytest.raises(ValueError, match="LinearAG: coefficients: expected"):
            LinearAG(value)
    with pytest.raises(ValueError, match="save them to a file"):
        LinearAG(coefficients()).to_dict()


def test_coefficients_that_make_no_sense_are_refused():
    known = coefficients()
    bad = known.weights.clone()
    bad[1, 4] = 1.0  # two steps back from the second
    for changes, words in (
        ({"weights": bad}, "guides the 2 steps before step 1"),
        ({"weights": known.weights * torch.nan}, "finite numbers"),
        ({"weights": known.weights[:, :4]}, "an odd number"),
        ({"policy": ("true",) * 3}, "8 of true, estimate, none"),
        ({"policy": ("perhaps",) * T}, "8 of true, estimate, none"),
        ({"space": "score"}, "one of eps, x0, output"),
        ({"sigma": (*known.sigma[:3], float("inf"), *known.sigma[4:])}, "true at step 3"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(known, **changes)
