"""Gradients through the guided loop, against a loop written out here and finite differences."""

import random

import pytest
import tiny
import torch
import zoo
from guiders import APG, CFG, AdapterOff
from guiders.pipelines.align import Adapter, Draw, Truncation, backpropagated
from torch.nn.utils import parameters_to_vector

PROMPTS, STEPS, SCALE = ["red heart", "blue car"], 6, 3.0


def alive(adapter, seed=0):
    """LoRA weights away from their beginning at zero, where half of the gradient is zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)


@pytest.fixture
def pipe():
    made = tiny.sd("ddim")
    for part in (made.unet, made.vae, made.text_encoder):
        part.requires_grad_(False).eval()
    made.adapter = Adapter(made)
    alive(made.adapter)
    return made


def generators(seed=0):
    return [torch.Generator().manual_seed(seed + row) for row in range(len(PROMPTS))]


def gradient(adapter):
    return torch.cat([
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
        for p in adapter.parameters()
    ])  # fmt: skip


def score(images):
    """A reward that every pixel takes part in, differently."""
    weights = torch.linspace(-1, 1, images[0].numel()).view_as(images[0])
    return (images * weights).sin().mean()


def by_hand(pipe, draw, eta, detach_input=False, last_noise=None, scale=SCALE):
    """Sampling written out: DDIM with CFG, one network call a step, no checkpoints."""
    embeds = torch.cat(pipe.encode_prompt(PROMPTS, "cpu", 1, True, [""] * 2)[::-1])
    pipe.scheduler.set_timesteps(STEPS)
    rows = generators()
    x = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in rows])
    for i, t in enumerate(pipe.scheduler.timesteps):
        if last_noise is not None and i == STEPS - 1:
            x = pipe.scheduler.add_noise(*last_noise, t)
        seen = x.detach() if detach_input else x
        u, c = pipe.unet(torch.cat([seen, seen]), t, embeds).sample.chunk(2)
        eps = u + scale * (c - u)
        if i not in draw.steps:
            eps = eps.detach()
        if i == draw.stop < STEPS - 1:
            a = pipe.scheduler.alphas_cumprod[t]
            x = (seen - (1 - a).sqrt() * eps) / a.sqrt()
            break
        x = pipe.scheduler.step(eps, t, x, eta=eta, generator=rows).prev_sample
    images = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    return (images / 2 + 0.5).clamp(0, 1), x.detach()


def sample(pipe, eta):
    return pipe(
        PROMPTS, num_inference_steps=STEPS, guidance_scale=7, eta=eta, generator=generators(),
        output_type="pt",
    ).images  # fmt: skip


TRUNCATIONS = [
    Truncation("gaussian", 3, 2), Truncation("uniform"), Truncation("fixed", 2),
    Truncation("all"), Truncation("fixed", 1, early_stop=4),
    Truncation("spaced", 3, detach_input=True),
    Truncation("spaced", 2, early_stop=3, detach_input=True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("truncation", "eta"), [*((t, 1.0) for t in TRUNCATIONS), (Truncation("all"), 0.0)], ids=str
)
def test_gradients_are_those_of_the_loop_written_out(pipe, truncation, eta):
    """And K evaluations are exactly K network calls, each of them evaluated once more."""
    seen = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    with backpropagated(pipe, CFG(SCALE), truncation, rng=random.Random(3)) as run:
        images = sample(pipe, eta)
    calls = list(seen)
    score(images).backward()
    hook.remove()
    assert len(calls) == run.draw.stop + 1
    assert [i for i, on in enumerate(calls) if on] == sorted(run.draw.steps)
    assert len(seen) - len(calls) == run.calls == sum(calls)
    found = gradient(pipe.adapter)
    pipe.unet.zero_grad()
    expected_images, final = by_hand(pipe, run.draw, eta, truncation.detach_input)
    score(expected_images).backward()
    expected = gradient(pipe.adapter)
    assert torch.allclose(images, expected_images, atol=1e-5)
    assert torch.allclose(run.final, final, atol=1e-4)
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_without_checkpoints_the_gradient_is_the_same_and_nothing_is_evaluated_again(pipe):
    found = []
    for checkpointing in (True, False):
        calls = []
        hook = pipe.unet.register_forward_pre_hook(lambda *_, c=calls: c.append(1))
        with backpropagated(pipe, APG(SCALE), Truncation("all"), checkpointing=checkpointing):
            images = sample(pipe, 1.0)
        score(images).backward()
        hook.remove()
        assert len(calls) == STEPS * (1 + checkpointing)
        found.append(gradient(pipe.adapter))
        pipe.unet.zero_grad()
    # The same sum in an order that autograd chooses.
    assert (found[0] - found[1]).norm() <= 1e-5 * found[1].norm()


def test_the_strength_of_the_adapter_is_a_scale(pipe):
    """``base + w (aligned - base)``: 0 is the base, 1 the aligned model, and gradients pass."""
    strength = {}
    for w in (0, 1, 0.5):
        guider = CFG(w, reference=AdapterOff())
        with backpropagated(pipe, guider, Truncation("all")):
            strength[w] = sample(pipe, 0.0)
    aligned = by_hand(pipe, Draw(frozenset(), STEPS - 1, STEPS), 0.0, scale=1)[0]
    with pipe.adapter.off():
        base = by_hand(pipe, Draw(frozenset(), STEPS - 1, STEPS), 0.0, scale=1)[0]
    assert torch.allclose(strength[0], base, atol=1e-5)
    assert torch.allclose(strength[1], aligned, atol=1e-5)
    assert (strength[0.5] - base).norm() > 1e-3
    score(strength[0.5]).backward()
    found = gradient(pipe.adapter)
    pipe.unet.zero_grad()
    with backpropagated(pipe, guider, Truncation("all"), checkpointing=False):
        score(sample(pipe, 0.0)).backward()
    assert found.norm() > 0
    assert (found - gradient(pipe.adapter)).norm() <= 1e-5 * found.norm()


def test_renoising_takes_the_last_step_anew(pipe):
    """DRaFT-LV: the same trajectory, then x_1 = noised final image, one network call each."""
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    with backpropagated(pipe, APG(SCALE), Truncation("fixed", 1, renoise=2)) as run:
        sample(pipe, 1.0)
        calls = []
        hook = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
        with run.renoised(lambda x: noise):
            first = sample(pipe, 1.0)
        with run.renoised(lambda x: noise):
            again = sample(pipe, 1.0)
        hook.remove()
    assert torch.equal(first, again)
    assert len(calls) == 2
    assert run.calls == 1


def test_renoised_gradients_are_those_of_the_loop_written_out(pipe):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    with backpropagated(pipe, CFG(SCALE), Truncation("fixed", 1, renoise=1)) as run:
        sample(pipe, 1.0)
        with run.renoised(lambda x: noise):
            images = sample(pipe, 1.0)
    score(images).backward()
    found = gradient(pipe.adapter)
    pipe.unet.zero_grad()
    expected, _ = by_hand(pipe, run.draw, 1.0, last_noise=(run.final, noise))
    score(expected).backward()
    assert torch.allclose(images, expected, atol=1e-5)
    assert (found - gradient(pipe.adapter)).norm() <= 1e-5 * found.norm()


NAMES = ["sd", "sdxl", "sd-controlnet", "sd3", "flux", "wan", "lumina2"]


@pytest.mark.parametrize(
    ("name", "guider"),
    [*((name, APG(4, momentum=-0.5)) for name in NAMES), ("sd", CFG(4)), ("flux", CFG(4))],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_kind_of_pipeline_agrees_with_finite_differences(name, guider):
    """One forward and two, noise and flow, momentum from step to step.

    In float64, but some schedulers step in float32, so the difference is a coarse one.
    """
    pipe = zoo.build(name, torch.float64)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    adapter = Adapter(pipe)
    alive(adapter)
    for parameter in adapter.parameters():
        parameter.data = parameter.data.double()

    def value():
        with backpropagated(pipe, guider, Truncation("all")):
            return zoo.run(name, pipe, steps=3).sin().mean()

    value().backward()
    torch.manual_seed(0)
    direction = [torch.randn_like(p) for p in adapter.parameters()]
    slope = sum((p.grad * d).sum() for p, d in zip(adapter.parameters(), direction, strict=True))
    ends = []
    for sign in (1, -1):
        for p, d in zip(adapter.parameters(), direction, strict=True):
            p.data += sign * 1e-3 * d
        ends.append(value().detach().double())
        for p, d in zip(adapter.parameters(), direction, strict=True):
            p.data -= sign * 1e-3 * d
    assert slope.abs() > 1e-9
    assert torch.isclose((ends[0] - ends[1]) / 2e-3, slope.double(), rtol=1e-2)


@pytest.mark.parametrize("name", ["euler", "dpm++", "unipc"])
def test_renoising_knows_each_schedulers_noise(name):
    """The noise that leads from the final image back to the last latents gives the same image."""
    pipe, other, last = tiny.sd(name), tiny.scheduler(name), []
    other.set_timesteps(STEPS)
    time, one = other.timesteps[-1:], torch.ones(1, 4, 8, 8)
    alpha, sigma = (other.add_noise(*pair, time) for pair in ((one, 0 * one), (0 * one, one)))
    with backpropagated(pipe, CFG(SCALE), Truncation("fixed", 1, renoise=1)) as run:
        hook = pipe.unet.register_forward_pre_hook(lambda _, args: last.append(args[0][:2]))
        images = sample(pipe, 0.0)
        seen = (1 + sigma**2).sqrt() if name == "euler" else 1  # what scale_model_input divides by
        noise = (last[-1] * seen - alpha * run.final) / sigma
        with run.renoised(lambda x: noise):
            again = sample(pipe, 0.0)
        hook.remove()
    assert torch.allclose(images, again, atol=1e-4)


def test_the_pipeline_is_as_it_was(pipe):
    kinds = [type(part) for part in (pipe, pipe.unet, pipe.scheduler)]
    pipe.safety_checker = torch.nn.Identity()
    with backpropagated(pipe, CFG(SCALE)):
        assert pipe.safety_checker is None
    assert [type(part) for part in (pipe, pipe.unet, pipe.scheduler)] == kinds
    assert isinstance(pipe.safety_checker, torch.nn.Identity)
    pipe.safety_checker = None
    before = parameters_to_vector(pipe.adapter.parameters()).clone()
    assert not sample(pipe, 0.0).requires_grad
    assert torch.equal(before, parameters_to_vector(pipe.adapter.parameters()))


def test_a_pipeline_that_cannot_be_interrupted_cannot_stop_early():
    pipe = zoo.build("pixart-sigma")
    with (
        pytest.raises(ValueError, match=r"early_stop is 3; allowed for PixArtSigma.* is 0"),
        backpropagated(pipe, CFG(3), Truncation("fixed", 1, early_stop=3)),
    ):
        pass


class TestDraws:
    """The draws themselves."""

    def draws(self, truncation, total=50, count=4000):
        rng = random.Random(0)
        return [truncation.draw(total, rng) for _ in range(count)]

    def lengths(self, *args, **options):
        return torch.tensor([len(d.steps) for d in self.draws(*args, **options)]).float()

    def test_the_released_gaussian(self):
        """int(N(42, 5)) of 50, drawn again outside of 1 to 49: 8.5 evaluations, not 8."""
        found = self.lengths(Truncation())
        assert found.min() >= 1
        cut = torch.randn(200000, generator=torch.Generator().manual_seed(0)).mul(5).add(42).int()
        cut = cut[(cut >= 1) & (cut < 50)]
        assert found.mean() == pytest.approx((50 - cut).float().mean().item(), abs=0.25)
        assert found.std() == pytest.approx((50 - cut).float().std().item(), abs=0.25)

    def test_uniform(self):
        counts = self.lengths(Truncation("uniform"), total=5).int().bincount()
        assert counts[0] == 0
        assert all(abs(n - 1000) < 120 for n in counts[1:].tolist())
        assert len(counts) == 5

    def test_they_are_the_last_ones(self):
        for kind in ("gaussian", "uniform", "fixed"):
            for draw in self.draws(Truncation(kind, 4), total=12, count=50):
                assert draw.steps == frozenset(range(12 - len(draw.steps), 12))

    def test_early_stop(self):
        stops = {d.stop for d in self.draws(Truncation("fixed", 1, early_stop=10), total=40)}
        assert stops == set(range(30, 40))
        for draw in self.draws(Truncation("fixed", 2, early_stop=10), total=40, count=40):
            assert draw.steps == {draw.stop - 1, draw.stop}

    def test_spaced(self):
        found = {d.steps for d in self.draws(Truncation("spaced", 3), total=10)}
        assert found == {frozenset({s, s + 3, s + 6}) for s in range(4)}

    def test_all(self):
        assert Truncation("all").draw(5, random.Random(0)) == Draw(frozenset(range(5)), 4, 5)

    @pytest.mark.parametrize(("total", "settings"), [
        (1, ("gaussian", 1)), (1, ("uniform",)), (5, ("fixed", 6)), (5, ("gaussian", 5)),
        (5, ("fixed", 4, 5, 3)), (3, ("fixed", 1, 5, 4)),
    ])  # fmt: skip
    def test_what_cannot_be_drawn(self, total, settings):
        with pytest.raises(ValueError, match=r"Truncation: .*: expected .*, got"):
            Truncation(*settings).draw(total, random.Random(0))

    @pytest.mark.parametrize("settings", [
        {"kind": "fixed", "steps": 1.5}, {"renoise": 1}, {"kind": "other"}, {"steps": 0},
        {"kind": "fixed", "steps": 1, "renoise": 1, "early_stop": 3}, {"detach_input": 2},
    ])  # fmt: skip
    def test_what_is_not_allowed(self, settings):
        with pytest.raises(ValueError, match=r"Truncation: .*: expected .*, got"):
            Truncation(**settings)
