"""What must hold for every guider, whatever the numbers."""

import json
import math

import pytest
import torch
from guiders import (
    APG,
    CFG,
    FDG,
    TCFG,
    Adaptive,
    CFGPlusPlus,
    CFGPlusPlus2M,
    CFGZeroStar,
    Cosine,
    DynamicThreshold,
    EnergyPreserving,
    Guider,
    Interval,
    KeepNorm,
    Linear,
    MagnitudeAware,
    Rescale,
    RewardGuidance,
    Stale,
    StepAG,
    WeakModel,
)
from guiders.guidance import Config, Denoiser, Prediction, Query, Readout, Term
from hypothesis import given, settings
from hypothesis import strategies as st
from known import Answers, step

SHAPE = (3, 8, 8)


def score(pictures, prompts):
    return pictures.square().flatten(1).sum(dim=1) / 9


def by_scale(scale):
    """Every method with this scale, by name."""
    return {
        "cfg": CFG(scale),
        "apg": APG(scale),
        "apg without radius": APG(scale, eta=0.4, rescale=0, momentum=0.3),
        "cfg-zero*": CFGZeroStar(scale),
        "tcfg": TCFG(scale),
        "magnitude aware": MagnitudeAware(scale),
        "fdg": FDG(scale, (1, 0.5, 0.2)),
        "fdg parallel": FDG(scale, parallel=0.3),
        "interval": CFG(Interval(scale, 0.5, 3)),
        "adaptive": CFG(Adaptive(scale, 0.2)),
        "step ag": CFG(StepAG(scale)),
        "stale": CFG(scale, reference=Stale(0.1)),
        "sum": CFG(scale) + APG(scale),
        "posts": CFG(scale)
        | Rescale(0.7)
        | EnergyPreserving()
        | DynamicThreshold(0.9, 0.5)
        | KeepNorm(),
    }


OTHERS = {
    "linear": CFG(Linear(1, 9)),
    "cosine": APG(Cosine(1, 9)),
    "cfg++": CFG(CFGPlusPlus(0.6)),
    "cfg++ 2m": CFGPlusPlus2M(0.6),
    "reward": CFG(3) + RewardGuidance(0.2, score, "latents", "x0"),
    "matched": CFG(3) + RewardGuidance(0.2, score, "latents", "x0", low=0.3, high=3),
}
GUIDERS = by_scale(4.5) | OTHERS
AFFINE = ["cfg", "fdg", "interval", "step ag", "stale", "sum of cfg"]


def tensor(batch, seed):
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed))


def run(guider, rows, seed=0, steps=4, readout=Readout(0.6, -0.8), change=lambda t: t):
    """The outputs of a run on fixed answers, (steps, rows, ...)."""
    denoiser = Denoiser(guider, len(rows))
    out = []
    for i in range(steps):
        c, u, x = (change(tensor(4, 100 * seed + 10 * k + i)[rows]) for k in range(3))
        u = 0.3 * c + u
        q = Query(x, step(i, steps, sigma=4 / (i + 1)))
        out.append(denoiser(q, Answers(c, u, readout)).output)
    denoiser.finish()
    return torch.stack(out)


@pytest.mark.parametrize("name", by_scale(1))
@given(seed=st.integers(0, 999))
@settings(max_examples=5, deadline=None)
def test_scale_one_is_exact(name, seed):
    out = run(by_scale(1.0)[name], [0, 1], seed)
    c = torch.stack([tensor(4, 100 * seed + i)[:2] for i in range(4)])
    assert torch.equal(out, c)


@pytest.mark.parametrize("name", GUIDERS)
@given(seed=st.integers(0, 999), rows=st.permutations([0, 1, 2, 3]))
@settings(max_examples=4, deadline=None)
def test_a_batch_is_a_loop(name, seed, rows):
    together = run(GUIDERS[name], rows, seed)
    for place, row in enumerate(rows):
        torch.testing.assert_close(run(GUIDERS[name], [row], seed)[:, 0], together[:, place])


@pytest.mark.parametrize("name", AFFINE)
@given(a=st.floats(-3, 3).filter(lambda a: abs(a) > 0.1), b=st.floats(-2, 2))
@settings(max_examples=5, deadline=None)
def test_affine_maps_of_the_outputs_commute(name, a, b):
    """G(A c + b, A u + b) = A G(c, u) + b, where no norm, angle or threshold is in it."""
    never = {"stale": CFG(4.5, reference=Stale(1)), "sum of cfg": CFG(4.5) + CFG(2)}
    guider = never.get(name) or GUIDERS[name]

    def guided(a, b):
        denoiser, c, u = Denoiser(guider, 2), tensor(2, 0), tensor(2, 1)
        q = Query(tensor(2, 2), step(1, 4))
        return denoiser(q, Answers(a * c + b, a * u + b, Readout(0.0, 1.0))).output

    torch.testing.assert_close(guided(a, b), a * guided(1, 0) + b, atol=1e-4, rtol=1e-4)


IN_X0 = ["cfg", "apg", "apg without radius", "fdg", "fdg parallel", "sum", "matched", "reward"]


@pytest.mark.parametrize("name", IN_X0)
@given(skip=st.floats(-2, 2), gain=st.floats(0.2, 3), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_what_works_on_x0_does_not_depend_on_the_parameterisation(name, skip, gain, seed):
    def guided(readout):
        denoiser, out = Denoiser(GUIDERS[name], 2), []
        for i in range(3):
            x, *wanted = (tensor(2, 100 * seed + 10 * k + i) for k in range(3))
            outputs = [(d - readout.skip * x) / readout.gain for d in wanted]
            out.append(denoiser(Query(x, step(i, 4)), Answers(*outputs, readout)).x0)
        return torch.stack(out)

    plain = guided(Readout(0.0, 1.0))
    torch.testing.assert_close(guided(Readout(skip, -gain)), plain, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", [name for name in GUIDERS if name not in ("reward", "matched")])
def test_json_round_trip(name):
    guider = GUIDERS[name]
    assert Guider.from_dict(json.loads(json.dumps(guider.to_dict()))) == guider


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("branch", ["positive", "negative"])
@pytest.mark.parametrize("name", [n for n in GUIDERS if n not in ("interval", "adaptive", "stale")])
def test_numbers_that_are_not_finite_stop_the_run(name, branch, bad):
    denoiser = Denoiser(GUIDERS[name], 2)
    c, u = tensor(2, 0), tensor(2, 1)
    q = [Query(tensor(2, 2), step(i, 4, sigma=2 / (i + 1))) for i in range(4)]
    denoiser(q[0], Answers(c, u))
    (c if branch == "positive" else u)[1, 0, 3, 3] = bad
    with pytest.raises((RuntimeError, ValueError)) as error:
        denoiser(q[1], Answers(c, u))
        denoiser(q[2], Answers(c, u))
    said = f"the network's {branch} prediction at step 1 (sigma 1)"
    reward = "the score is [" in str(error.value)  # that says so before
    assert said in str(error.value) or (reward and name in ("reward", "matched"))


def test_the_method_is_named_where_the_network_is_not_to_blame():
    class Broken(CFG):
        def delta(self, q, positive, reference, scale, state):
            return super().delta(q, positive, reference, scale, state) * math.inf

    denoiser = Denoiser(CFG(2) + Broken(3), 1)
    denoiser(Query(tensor(1, 2), step(5, 9)), Answers(tensor(1, 0), tensor(1, 1)))
    with pytest.raises(RuntimeError, match=r"what Broken scale 3 makes of it at step 5"):
        denoiser.finish()
    del Config.registry["Broken"]


def test_diagnostics_do_not_change_the_run_and_are_not_counted():
    weak = torch.nn.Identity()

    class Three(Answers):
        def __call__(self, q, requests):
            answers = super().__call__(q, {b: r for b, r in requests.items() if b.model is None})
            for branch, rows in requests.items():
                if branch.model is weak:
                    answers[branch] = Prediction(q.x[rows], tensor(2, 7)[rows], self.readout)
            return answers

    c, u, x = tensor(2, 0), tensor(2, 1), tensor(2, 2)
    guider = [CFG(3, reference=WeakModel(weak)), APG(4, momentum=0)]
    results = {}
    for diagnose in (False, True):
        network = Three(c, u)
        denoiser = Denoiser(guider, 2, diagnose=diagnose)
        results[diagnose] = denoiser(Query(x, step()), network)
    assert torch.equal(results[True].output, results[False].output)
    assert results[True].record.evaluations == results[False].record.evaluations == [2, 2]
    assert results[False].record.diagnosis is None
    found = results[True].record.diagnosis
    gap, change = (c - u).flatten(1), (results[True].output - c).flatten(1)
    scale = 1 + (change * gap).sum(dim=1) / gap.square().sum(dim=1)
    assert found.effective_scale == pytest.approx(scale.tolist(), rel=1e-5)
    assert found.gap == pytest.approx(gap.square().mean(dim=1).sqrt().tolist(), rel=1e-5)
    cosine = torch.cosine_similarity(gap, c.flatten(1)).tolist()
    assert found.parallel == pytest.approx(cosine, abs=1e-6)


@given(scale=st.floats(0, 30))
@settings(max_examples=20, deadline=None)
def test_the_effective_scale_of_cfg_is_its_scale(scale):
    c, u = tensor(2, 0), tensor(2, 1)
    denoiser = Denoiser(CFG(scale), 2, diagnose=True)
    found = denoiser(Query(tensor(2, 2), step()), Answers(c, u)).record.diagnosis
    assert found.effective_scale == pytest.approx([scale] * 2, abs=1e-4)


def test_every_method_is_tried_here():
    import guiders

    tried = {type(term) for guider in GUIDERS.values() for term in guider.terms}
    own = {
        kind
        for kind in vars(guiders).values()
        if isinstance(kind, type) and issubclass(kind, Term) and kind is not Term
    }
    assert own - tried == {guiders.ClassifierGuidance}, "add the method to by_scale"
