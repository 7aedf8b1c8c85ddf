"""What must hold for every method, whatever the numbers: read from ``METHODS``, not from a list."""

import json
import math
import sys

import methods
import pytest
import stubs
import torch
from guiders import (
    APG,
    CFG,
    FDG,
    MPGD,
    Adaptive,
    DynamicThreshold,
    EnergyPreserving,
    Guider,
    Interval,
    KeepNorm,
    Rescale,
    Stale,
    WeakModel,
    guidance,
)
from guiders.guidance import (
    POSITIVE,
    Config,
    Denoiser,
    Gate,
    Post,
    Prediction,
    Prepare,
    Query,
    Readout,
    Reference,
    Scale,
    Step,
    Term,
    intents,
)
from guiders.pipelines.language.parse import parse_guider
from hypothesis import given, settings
from hypothesis import strategies as st
from known import Answers, step

SHAPE = (3, 8, 8)
STEPS = len(methods.LEVELS) - 1


def by_scale(scale):
    """Every method at this scale, by name: those there are, and settings that matter."""
    every = {
        name: methods.guider_of(kind, scale)
        for name, kind in guidance.METHODS.items()
        if issubclass(kind, (Term, Gate, Reference, Post, Prepare))
    }
    return every | {
        "apg without radius": APG(scale, eta=0.4, rescale=0, momentum=0.3),
        "fdg parallel": FDG(scale, (1, 0.5, 0.2), parallel=0.3),
        "interval": CFG(Interval(scale, 0.5, 3)),
        "adaptive": CFG(Adaptive(scale, 0.2)),
        "stale": CFG(scale, reference=Stale(0.1)),
        "sum": CFG(scale) + APG(scale),
        "transforms": CFG(scale)
        | Rescale(0.7)
        | EnergyPreserving()
        | DynamicThreshold(0.9, 0.5)
        | KeepNorm(),
    }


def every_guider():
    """``by_scale``, schedules, and gradients whose size is matched."""
    schedules = {
        name: methods.guider_of(kind)
        for name, kind in guidance.METHODS.items()
        if issubclass(kind, Scale) and not issubclass(kind, Gate)
    }
    known = {name: guider for name, guider in schedules.items() if not intents(guider)}
    score = methods.given(1.0)["reward"]
    matched = CFG(3) + MPGD(0.2, score, "latents", low=0.3, high=3)
    return by_scale(4.5) | known | {"matched": matched}


GUIDERS = every_guider()
AFFINE = ["CFG", "FDG", "interval", "StepAG", "stale", "sum of cfg"]


def tensor(batch, seed):
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed))


class World(methods.World):
    """Four images, of which each is asked to be something else."""

    prompts, seeds = ("a", "another", "a", "another"), (1, 2, 3, 4)


class Network:
    """The positive branch says ``c``, every other ``u``; it keeps the rows that both were asked."""

    def __init__(self, c, u, readout):
        self.said, self.readout = {"positive": c, "reference": u}, readout
        self.asked = {"positive": set(), "reference": set()}

    def __call__(self, q, requests):
        answers = {}
        for branch, rows in requests.items():
            which = "positive" if branch == POSITIVE else "reference"
            self.asked[which] |= set(rows)
            output = self.said[which][list(rows)] + 0.05 * q.x[list(rows)]
            answers[branch] = Prediction(q.x[list(rows)], output, self.readout)
        return answers


def in_turn(guider, rows, seed=0):
    """The denoiser, queries and networks of a run of flow matching on fixed answers."""
    context = World()
    context.prompts = [World.prompts[row] for row in rows]
    context.seeds = [World.seeds[row] for row in rows]
    denoiser = Denoiser(guider, len(rows), context)
    for i in range(STEPS):
        c, u, x = (tensor(4, 100 * seed + 10 * k + i)[list(rows)] for k in range(3))
        at = Step(i, STEPS, 0, methods.LEVELS[i], methods.LEVELS[i + 1])
        yield denoiser, Query(x, at), Network(c, 0.3 * c + u, Readout(1.0, -at.level.std))


def run(guider, rows, seed=0):
    """The outputs of a run on fixed answers, (steps, rows, ...)."""
    out = []
    for denoiser, query, network in in_turn(guider, rows, seed):
        out.append(denoiser(query, network).output)
    denoiser.finish()
    return torch.stack(out)


def off(kind):
    """The scale at which a method does nothing."""
    return kind.off if issubclass(kind, Term) else 1.0


# Some need both predictions at every scale, and some skip whole steps.
EXACT = [
    name
    for name in by_scale(1.0)
    if (kind := guidance.METHODS.get(name)) is None
    or (off(kind) >= 0 and not (issubclass(kind, Prepare) and kind.blank is not Prepare.blank))
]


@pytest.mark.parametrize("name", EXACT)
@given(seed=st.integers(0, 999))
@settings(max_examples=5, deadline=None)
def test_the_scale_of_no_guidance_is_exact(name, seed):
    scale = off(guidance.METHODS.get(name, CFG))
    guider = by_scale(scale)[name]
    for denoiser, query, network in in_turn(guider, [0, 1], seed):
        ours = denoiser(query, network)
        assert torch.equal(ours.output, network(query, {POSITIVE: [0, 1]})[POSITIVE].output)


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
    own = {"stale": CFG(4.5, reference=Stale(1)), "sum of cfg": CFG(4.5) + CFG(2)}
    guider = own.get(name) or GUIDERS[name]

    def guided(a, b):
        denoiser, c, u = Denoiser(guider, 2), tensor(2, 0), tensor(2, 1)
        q = Query(tensor(2, 2), step(1, 4))
        return denoiser(q, Answers(a * c + b, a * u + b, Readout(0.0, 1.0))).output

    torch.testing.assert_close(guided(a, b), a * guided(1, 0) + b, atol=1e-4, rtol=1e-4)


IN_X0 = ["apg without radius", "fdg parallel", "sum", "matched"]  # others: tests/test_docs.py


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


def needs_nothing(kind):
    try:
        return bool(kind())
    except (TypeError, ValueError):
        return False


STORED = [n for n in GUIDERS if n != "matched" and needs_nothing(guidance.METHODS.get(n, CFG))]


@pytest.mark.parametrize("name", STORED)
def test_json_round_trip(name):
    guider = GUIDERS[name]
    assert Guider.from_dict(json.loads(json.dumps(guider.to_dict()))) == guider


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("branch", ["positive", "reference"])
@pytest.mark.parametrize("name", GUIDERS)
def test_numbers_that_are_not_finite_stop_the_run(name, branch, bad):
    """Where the image was asked for them, and nowhere else."""
    said, asked = "", set()
    try:
        for denoiser, query, network in in_turn(GUIDERS[name], [0, 1]):
            if query.step.index == 1:
                network.said[branch][1, 0, 3, 3], asked = bad, network.asked[branch]
            denoiser(query, network)
        denoiser.finish()
    except (RuntimeError, ValueError) as error:
        said = str(error)
    if 1 not in asked:
        assert branch == "reference"
        assert said == ""
    elif "the score is [" not in said:  # of a reward, that says so before
        assert "the network's" in said
        assert "prediction at step 1 (sigma 2.333" in said
        assert branch != "positive" or "the network's positive" in said


def test_the_method_is_named_where_the_network_is_not_to_blame():
    class Broken(CFG):
        def delta(self, q, positive, reference, scale, state):
            return super().delta(q, positive, reference, scale, state) * math.inf

    denoiser = Denoiser(CFG(2) + Broken(3), 1)
    denoiser(Query(tensor(1, 2), step(5, 9)), Answers(tensor(1, 0), tensor(1, 1)))
    with pytest.raises(RuntimeError, match=r"what Broken scale 3 makes of it at step 5"):
        denoiser.finish()


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


DOUBLED = '''
from dataclasses import dataclass
from typing import Any, ClassVar

from ..engine.guider import Term
from ..engine.reference import Negative, Reference


@dataclass(frozen=True)
class Doubled(Term):
    """CFG at twice its strength (arXiv:2207.12598)."""

    formula: ClassVar[str] = "D_c + 2 (w - 1) (D_c - D_u)"
    works_on: ClassVar[str] = "any"

    scale: Any = 4.0
    reference: Reference = Negative()

    def delta(self, q, positive, reference, scale, state):
        return 2 * (scale - 1) * (positive - reference)
'''


@pytest.fixture
def doubled(tmp_path, monkeypatch):
    """A method whose file lies among the terms."""
    folder = sys.modules["guiders.guidance.terms"]
    (tmp_path / "doubled.py").write_text(DOUBLED)
    monkeypatch.setattr(Config, "registry", dict(Config.registry))
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    monkeypatch.setattr(guidance, "METHODS", guidance.find_methods())
    yield guidance.METHODS["Doubled"]
    del sys.modules["guiders.guidance.terms.doubled"], folder.doubled


def test_a_method_is_registered_by_its_file_alone(doubled):
    assert by_scale(4.5)["Doubled"] == doubled(4.5)
    torch.testing.assert_close(run(doubled(2), [0, 1]), run(CFG(3), [0, 1]))
    assert parse_guider("doubled(3)") == Guider.from_dict(doubled(3).to_dict()) == doubled(3)
    row = "| `Doubled` | `D_c + 2 (w - 1) (D_c - D_u)` | any | 2 | - | `scale=4` |"
    assert row in methods.page()
    for text in stubs.stubs().values():
        assert "terms.doubled import Doubled as Doubled\n" in text
