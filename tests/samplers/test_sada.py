"""SADA on exact denoisers: its rule written out, and what it must not change."""

import math

import diffusers
import pytest
import tiny
import torch
from guiders import CFG, SADA, Adaptive, guided
from guiders.guidance import POSITIVE, Prediction
from guiders.samplers import EDM, Mixture, as_network, final, sample
from guiders.samplers.networks import CLEAN

pytestmark = pytest.mark.quick

EULER = EDM(sigma_max=10, sigma_min=0.02, order=1)
EARLY = SADA(start=0.1, late=0.9, stop=0.9)
ALL = SADA(start=0.1, late=0.5, stop=0.9)


def mixture():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(6, 8, dtype=torch.float64, generator=generator)
    return Mixture(means, 0.3, labels=torch.arange(6) % 2)


def start(batch=3):
    return 10 * torch.randn(
        batch, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def evaluated(point, image=0):
    return "".join("#" if r.evaluations[image] else "." for r in point.records)


def run(skip, steps=40, x=None, denoise=None, **given):
    x = start() if x is None else x
    return final(
        sample(
            denoise or mixture(), EULER, x=x, num_inference_steps=steps, skip=skip,
            **given,
        )
    )  # fmt: skip


def written_out(settings, steps, x):
    """One image by Euler's method, with the paper's gradients: x_next = x - f."""
    sigmas, exact = EULER.sigmas(steps), mixture()
    a, b, c = {"paper": (5 / 6, 5 / 6, -2 / 3), "code": (0.625, 0.75, -0.375)}[
        settings.coefficients
    ]
    late = math.ceil(settings.late * steps)
    share = steps / 1000 if settings.stride == "code" else 1
    pattern, f, noises, cached, row, before = "", [], [], {}, 0, None
    for i in range(steps):
        sigma, after = sigmas[i], sigmas[i + 1]
        skip, guess = False, None
        if settings.start * steps <= i < settings.stop * steps and len(f) >= 3:
            if i >= late:
                skip = (i - late) % settings.interval != 0
            else:
                guess = before - share * (a * f[-1] + b * f[-2] + c * f[-3])
                second = (f[-1] - f[-2]) - (f[-2] - f[-3])
                skip = bool(((x - guess) * second).mean() <= 0) and row < settings.most
        row = row + 1 if skip else 0
        if not skip:
            clean = exact(x, sigma)
            cached[i] = clean
        elif guess is not None:
            clean = guess - sigma * noises[-1]
        else:
            nodes = []
            for j in sorted(cached, reverse=True):
                if len(nodes) < settings.nodes and (
                    not nodes or nodes[-1] - j >= settings.interval
                ):
                    nodes.append(j)
            clean = 0
            for j in nodes:
                weight = 1.0
                for k in nodes:
                    weight *= (i - k) / (j - k) if k != j else 1
                clean = clean + weight * cached[j]
        noises.append((x - clean) / sigma)
        f.append(-(after - sigma) * noises[-1])
        before, x = x, x - f[-1]
        pattern += "." if skip else "#"
    return x, pattern


@pytest.mark.parametrize("coefficients", ["paper", "code"])
@pytest.mark.parametrize("stride", ["actual", "code"])
@pytest.mark.parametrize("settings", [EARLY, ALL, SADA()], ids=["early", "all", "default"])
def test_it_is_the_published_rule(settings, coefficients, stride):
    settings = settings.replace(coefficients=coefficients, stride=stride)
    for image in range(3):
        x = start()[image : image + 1]
        expected, pattern = written_out(settings, 40, x)
        found = run(settings, x=x)
        assert evaluated(found) == pattern
        assert "." in pattern
        torch.testing.assert_close(found.x, expected, atol=1e-9, rtol=1e-9)


def test_a_batch_is_a_loop():
    together = run(ALL)
    for image in range(3):
        alone = run(ALL, x=start()[image : image + 1])
        assert evaluated(together, image) == evaluated(alone)
        torch.testing.assert_close(together.x[image : image + 1], alone.x)


def test_what_is_left_out_is_not_evaluated():
    asked = []

    def counted(x, sigma):
        asked.append(len(x))
        return mixture()(x, sigma)

    end = run(ALL, denoise=counted)
    assert sum(asked) == sum(sum(record.evaluations) for record in end.records)
    assert end.nfe < 30


def test_nothing_is_left_out_outside_its_part():
    never = SADA(start=1, late=1, stop=1)
    assert torch.equal(run(never).x, run(None).x)
    assert run(never).nfe == 40
    pattern = evaluated(run(SADA(start=0.5, late=0.6, stop=0.8)))
    assert "." not in pattern[:20] + pattern[32:]
    assert pattern[24:32] == "#...#..."


def test_no_more_than_so_many_in_a_row():
    for most in (1, 2):
        pattern = evaluated(run(EARLY.replace(most=most)))
        assert "." * most in pattern
        assert "." * (most + 1) not in pattern


def test_the_polynomial_is_exact_for_cubic_paths():
    rates = torch.randn(4, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def network(q, requests):
        s = q.step.index / 40
        clean = sum(rate * s**power for power, rate in enumerate(rates))
        return {POSITIVE: Prediction(q.x, clean[requests[POSITIVE]], CLEAN)}

    def images(skip):
        given = {"x": start(), "guider": CFG(1), "num_inference_steps": 40}
        points = list(sample(network, EULER, skip=skip, **given))
        return torch.stack([point.x0 for point in points]), points[-1].nfe

    late = SADA(start=0.4, late=0.4, stop=0.9)
    truth, _ = images(None)
    fast, nfe = images(late)
    torch.testing.assert_close(fast, truth, atol=1e-9, rtol=1e-9)
    assert nfe == 16 + 5 + 4
    assert (images(late.replace(nodes=3))[0] - truth).abs().max() > 1e-6


def test_a_straight_flow_goes_on_by_itself():
    point = torch.arange(8.0)

    def one(skip):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        return final(
            sample(
                lambda x, sigma: point.expand_as(x), scheduler, shape=(2, 8), skip=skip,
                num_inference_steps=20, generator=torch.Generator().manual_seed(0),
            )
        )  # fmt: skip

    fast = one(SADA(interval=1))
    torch.testing.assert_close(fast.x, one(None).x, atol=1e-4, rtol=1e-4)
    assert fast.nfe < 20


def test_it_adds_to_a_guider_that_leaves_out_branches():
    def guided_run(guider, skip):
        labels = torch.zeros(3, dtype=torch.long)
        return run(skip, denoise=as_network(mixture(), labels, labels - 1), guider=guider)

    adaptive = CFG(Adaptive(3, threshold=0.98))
    full, steps, branches, both = (
        guided_run(guider, skip).nfe for guider in (CFG(3), adaptive) for skip in (None, ALL)
    )
    assert full == 80
    assert both < min(steps, branches)


def test_solvers_that_evaluate_twice_are_refused():
    with pytest.raises(ValueError, match="skip is SADA and the scheduler evaluates several"):
        final(sample(mixture(), EDM(), x=start(), num_inference_steps=9, skip=SADA()))
    pipe = tiny.sd("heun")
    with (
        pytest.raises(ValueError, match="one evaluation a step"),
        guided(pipe, CFG(3), skip=SADA(), quiet=True),
    ):
        tiny.run(pipe, steps=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": "own"}, "coefficients: expected one of paper, code.*, got 'own'"),
        ({"interval": 0}, "interval: expected a whole number of at least 1.*, got 0"),
        ({"nodes": 1.5}, "nodes: expected a whole number of at least 2.*, got 1.5"),
        ({"late": 0.1}, "late: expected a number between start.*, got 0.1"),
        ({"stop": 2}, "stop: expected .*, got 2"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SADA(**options)


def test_it_is_the_same_from_json():
    assert SADA.from_dict(ALL.to_dict()) == ALL
