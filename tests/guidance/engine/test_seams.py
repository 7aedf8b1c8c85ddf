"""Methods of other people's: each toy uses a place of the engine that is there for methods to come,
from outside of the library."""

import random
from dataclasses import dataclass

import pytest
import torch
from guiders import APG, CFG
from guiders.guidance import (
    Branch,
    Config,
    Denoiser,
    Latents,
    Level,
    Negative,
    Post,
    Query,
    Reference,
    Scale,
    Step,
    Term,
    dot,
    norm,
    project,
)
from guiders.samplers import as_network
from known import step


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Each test's classes are its own."""
    monkeypatch.setattr(Config, "registry", dict(Config.registry))


def images(seed, batch=2):
    return torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def told(x, sigma, condition):
    """A denoiser: the condition, bent by what it sees."""
    return condition + 0.1 * torch.tanh(x)


def named(name):
    @dataclass(frozen=True)
    class Named(Reference):
        name: str

        def branch(self):
            return Branch(self.name)

    return Named(name)


def test_more_than_two_branches_by_name():
    c, u, picture, x = (images(seed) for seed in range(4))
    network = as_network(told, c, u, picture=picture)
    guider = CFG(3) + CFG(1.5, reference=named("picture"))
    level = step(sigma=0)
    guided = Denoiser(guider, 2)(Query(x, level), network)
    seen = 0.1 * torch.tanh(x)
    torch.testing.assert_close(guided.x0, c + seen + 2 * (c - u) + 0.5 * (c - picture))
    assert guided.record.evaluations == [3, 3]
    with pytest.raises(
        ValueError, match=r"the sound prediction; allowed are .* positive, negative"
    ):
        Denoiser(CFG(2, reference=named("sound")), 2)(Query(x, level), network)


def test_a_term_with_several_references():
    """Perp-Neg: of each further prompt only what is perpendicular to the main one counts."""

    @dataclass(frozen=True)
    class PerpNeg(Term):
        scale: object = 5.0
        reference: Reference = Negative()  # noqa: RUF009
        others: tuple = ()
        weight: float = 1.0

        @property
        def references(self):
            return (self.reference, *self.others)

        def delta(self, query, positive, references, scale, state):
            empty, *others = references
            main = positive - empty
            change = (scale - 1) * main
            for other in others:
                gap = other - empty
                change = change - scale * self.weight * (gap - project(gap, onto=main))
            return change

    c, u, a, b, x = (images(seed) for seed in range(5))
    network = as_network(told, c, u, a=a, b=b)
    guider = PerpNeg(4.0, others=(named("a"), named("b")), weight=0.5)
    guided = Denoiser(guider, 2)(Query(x, step(sigma=0)), network)

    def across(v, axis):
        shares = (v * axis).flatten(1).sum(1) / axis.square().flatten(1).sum(1)
        return v - shares[:, None, None, None] * axis

    seen = 0.1 * torch.tanh(x)
    expected = c + seen + 3 * (c - u) - 2 * (across(a - u, c - u) + across(b - u, c - u))
    torch.testing.assert_close(guided.x0, expected)
    assert guided.record.evaluations == [4, 4]


def test_a_transform_with_memory():
    @dataclass(frozen=True)
    class Momentum(Post):
        share: float = 0.5

        def __call__(self, query, positive, guided, state):
            before = state.get("mean", guided.vector)
            return state.set("mean", (1 - self.share) * guided.vector + self.share * before)

    denoiser, mean = Denoiser(CFG(2) | Momentum(), 2), None
    for i in range(4):
        c, u, x = images(10 * i), images(10 * i + 1), torch.zeros(2, 2, 4, 4)
        guided = denoiser(Query(x, step(i)), as_network(told, c, u)).output
        plain = c + (c - u)
        mean = plain if mean is None else 0.5 * plain + 0.5 * mean
        torch.testing.assert_close(guided, mean)
    assert denoiser.memory()["mean"].shape == (2, 2, 4, 4)


def test_what_is_drawn_at_random_is_the_same_within_a_solver_step():
    weak = [lambda x, sigma, condition, i=i: condition * 0.1 * i for i in range(50)]

    @dataclass(frozen=True)
    class Drawn(Reference):
        seed: int = 0

        def asks(self, step, state, rows):
            drawn = random.Random(f"{self.seed} {state.solver_step}").choice(weak)
            return {Branch("positive", drawn): rows}

    def models(seed):
        """Of each evaluation of a run, each of whose steps has two."""
        asked = []
        denoiser = Denoiser(CFG(2, reference=Drawn(seed)), 1)
        for i in range(12):
            at = Step(i, 12, i % 2, Level(1.0, 1.0))
            network = as_network(told, images(0, 1))

            def look(query, branches, network=network):
                asked.extend(b.model for b in branches if b.model is not None)
                return network(query, branches)

            denoiser(Query(images(1, 1), at), look)
        return asked

    first = models(0)
    assert first[::2] == first[1::2]
    assert len(set(first)) > 2
    assert models(0) == first != models(1)


@pytest.mark.parametrize("kind", [CFG, APG])
def test_a_scale_for_each_pixel(kind):
    weights = torch.linspace(1, 6, 16).view(1, 4, 4)

    @dataclass(frozen=True)
    class Painted(Scale):
        def at(self, step, state):
            return [weights] * (state.batch - 1) + [2.0]

    c, u, x = (images(seed, 3) for seed in range(3))
    settings = {} if kind is CFG else {"momentum": 0, "rescale": 0}
    network = as_network(told, c, u)
    guided = Denoiser(kind(Painted(), **settings), 3)(Query(x, step()), network)
    once = Denoiser(kind(2, **settings), 3)(Query(x, step()), network)
    maps = torch.stack([weights, weights, torch.full_like(weights, 2.0)])
    positive = guided.positive.x0.tensor()
    torch.testing.assert_close(guided.x0, positive + (maps - 1) * (once.x0 - positive))
    assert guided.record.scales == [(3.5,), (3.5,), (2.0,)]


def test_a_branch_at_other_latents():
    @dataclass(frozen=True)
    class Further(Latents):
        by: float

        def at(self, x, step, images):
            return x + self.by

    @dataclass(frozen=True)
    class Shifted(Reference):
        by: float

        def branch(self):
            return Branch("positive", elsewhere=Further(self.by))

    c, x = images(0), images(1)
    guided = Denoiser(CFG(3, reference=Shifted(2.0)), 2)(
        Query(x, step(sigma=0)), as_network(told, c)
    )
    here, there = (c + 0.1 * torch.tanh(at) for at in (x, x + 2))
    torch.testing.assert_close(guided.x0, here + 2 * (here - there))


def test_a_method_in_vectors_and_the_same_in_tensors():
    """Thirty lines are more than enough; what needs pixels takes the tensors."""

    @dataclass(frozen=True)
    class Normalised(Term):
        """The gap, made as long as ``share`` of the clean image."""

        scale: object = 2.0
        share: float = 0.5
        reference: Reference = Negative()  # noqa: RUF009

        def delta(self, query, positive, reference, scale, state):
            gap = positive - reference
            return (scale - 1) * self.share * (norm(positive.x0) / norm(gap)) * gap

    @dataclass(frozen=True)
    class Pixels(Normalised):
        def delta(self, query, positive, reference, scale, state):
            gap, clean = (positive - reference).tensor(), positive.x0.tensor()
            size = clean.flatten(1).norm(dim=1) / gap.flatten(1).norm(dim=1)
            return (scale - 1) * self.share * size[:, None, None, None] * gap

    c, u, x = (images(seed, 3) for seed in range(3))
    network = as_network(told, c, u)
    for scale in (3.0, [3.0, 1.0, 2.0]):
        one, other = (
            Denoiser(kind(scale), 3)(Query(x, step()), network).output
            for kind in (Normalised, Pixels)
        )
        torch.testing.assert_close(one, other)


def test_numbers_of_images_have_no_truth_and_no_value_on_the_host():
    length = norm(images(0))
    assert dot(images(0), images(0)).values.shape == (2,)
    for ask in (bool, float, int, len, list):
        with pytest.raises(TypeError, match="use where and clamp"):
            ask(length)
    with pytest.raises(TypeError):
        max(length, 1.0)


def test_a_vector_belongs_to_its_step():
    kept = []

    @dataclass(frozen=True)
    class Keeps(CFG):
        def delta(self, query, positive, reference, scale, state):
            kept.append(positive - reference)
            return super().delta(query, positive, reference, scale, state)

    Denoiser(Keeps(3), 2)(Query(images(2), step()), as_network(told, images(0), images(1)))
    with pytest.raises(RuntimeError, match=r"after its step; keep what .* with state.set"):
        kept[0].tensor()
