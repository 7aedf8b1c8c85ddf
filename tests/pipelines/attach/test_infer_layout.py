"""Pipelines that no table has heard of: learnt from their first evaluation, or refused in words."""

import pytest
import tiny
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from errors import error
from guiders import APG, CFG, Adaptive, Interval, WeakModel, guided

EMBEDS = torch.randn(5, 16, 32, generator=torch.Generator().manual_seed(7))
STEPS = 5


class MadeUp(DiffusionPipeline):
    """Somebody's own pipeline; subclasses say how it calls its network and combines the answers."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def network(self, x, t, embeds):
        return self.unet(x, t, encoder_hidden_states=embeds, return_dict=False)[0]

    @torch.no_grad()
    def __call__(self, rows=(0, 1), guidance_scale=5.0):
        positive, negative = EMBEDS[list(rows)], EMBEDS[4:].expand(len(rows), -1, -1)
        self.scheduler.set_timesteps(STEPS)
        x = tiny.latents(4)[list(rows)]
        for t in self.scheduler.timesteps:
            if guidance_scale > 1:
                output = self.both(x, t, positive, negative, guidance_scale)
            else:
                output = self.alone(x, t, positive)
            x = self.scheduler.step(output, t, x, return_dict=False)[0]
        return x

    def alone(self, x, t, positive):
        return self.network(x, t, positive)

    def both(self, x, t, positive, negative, s):
        raise NotImplementedError


class PositiveFirst(MadeUp):
    def both(self, x, t, positive, negative, s):
        c, u = self.network(torch.cat([x, x]), t, torch.cat([positive, negative])).chunk(2)
        return c + (s - 1) * (c - u)


class NegativeFirst(MadeUp):
    def both(self, x, t, positive, negative, s):
        u, c = self.network(torch.cat([x, x]), t, torch.cat([negative, positive])).chunk(2)
        return torch.lerp(u, c, s)


class Negated(MadeUp):
    """As Lumina2 and HiDream: the network points the other way."""

    def alone(self, x, t, positive):
        return -self.network(x, t, positive)

    def both(self, x, t, positive, negative, s):
        u = self.network(x, t, negative)
        c = self.network(x, t, positive)
        return -(u + s * (c - u))


class TwoPasses(MadeUp):
    def both(self, x, t, positive, negative, s):
        c = self.network(x, t, positive)
        u = self.network(x, t, negative)
        return u + s * (c - u)


KNOWN_PATTERNS = [PositiveFirst, NegativeFirst, Negated, TwoPasses]


def make(kind):
    pipe = tiny.sd("ddim")
    scheduler = FlowMatchEulerDiscreteScheduler() if kind is Negated else pipe.scheduler
    made = kind(pipe.unet, scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def attached(pipe, guider, **options):
    with guided(pipe, guider, quiet=True) as run:
        return pipe(**options), run


@pytest.mark.quick
@pytest.mark.parametrize("kind", KNOWN_PATTERNS)
def test_a_known_pattern_is_learnt(kind):
    pipe, rows = make(kind), []
    own = pipe()
    assert error(pipe(guidance_scale=1), own) > 0.01
    ours, run = attached(pipe, CFG(5), guidance_scale=2)
    assert error(ours, own) < 1e-5
    assert run.nfe == 2 * STEPS
    assert error(attached(pipe, APG(5))[0], own) > 1e-4
    # Learning evaluates both branches at once, and other batches round differently.
    assert error(attached(pipe, CFG(1))[0], pipe(guidance_scale=1)) < 1e-5
    assert error(attached(pipe, CFG(1), guidance_scale=1)[0], pipe(guidance_scale=1)) < 1e-5

    pipe.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    _, run = attached(pipe, CFG(Adaptive(5, threshold=-1)))
    assert sum(rows) == 4 + 2 * (STEPS - 1) == sum(run.last.evaluations)


@pytest.mark.parametrize("kind", KNOWN_PATTERNS)
def test_the_first_evaluation_counts_what_learning_costs_and_the_next_run_knows(kind):
    pipe = make(kind)
    guider = CFG(Interval(5, low=0, high=1e-9))  # never guides
    with guided(pipe, guider, quiet=True) as run:
        first, second = pipe(), pipe()
    assert [call.nfe for call in run.calls] == [STEPS + 1, STEPS]
    assert error(first, pipe(guidance_scale=1)) < 1e-5  # the first evaluation is of other batches
    assert error(second, first) < 1e-5


@pytest.mark.parametrize("kind", KNOWN_PATTERNS)
def test_a_batch_is_a_loop_and_a_weak_model_works(kind):
    pipe, weak = make(kind), tiny.sd("ddim").unet
    for parameter in weak.parameters():
        parameter.data.mul_(0.9)
    for guider in (APG([3, 6]), CFG(2, reference=WeakModel(weak))):
        together, _ = attached(pipe, guider)
        for row in (0, 1):
            one = APG([3, 6][row]) if guider == APG([3, 6]) else guider
            assert error(attached(pipe, one, rows=(row,))[0][0], together[row]) < 1e-5


class Normed(MadeUp):
    """Something is done to the combination."""

    def both(self, x, t, positive, negative, s):
        u, c = self.network(torch.cat([x, x]), t, torch.cat([negative, positive])).chunk(2)
        g = u + s * (c - u)
        return g * c.std() / g.std()


class Three(MadeUp):
    def both(self, x, t, positive, negative, s):
        three = torch.cat([negative, negative, positive])
        a, b, c = self.network(torch.cat([x, x, x]), t, three).chunk(3)
        return a + (b - a) + s * (c - b)


class Thrice(MadeUp):
    def both(self, x, t, positive, negative, s):
        a, b, c = (self.network(x, t, e) for e in (negative, positive, negative))
        return a + s * (b - c)


class Scaled(MadeUp):
    def alone(self, x, t, positive):
        return 0.5 * self.network(x, t, positive)

    def both(self, x, t, positive, negative, s):
        return self.alone(x, t, positive)


class Tokens(MadeUp):
    """Lists of tensors, as Z-Image's."""

    def both(self, x, t, positive, negative, s):
        return self.unet(list(x), t, encoder_hidden_states=positive)[0]


class Stops(TwoPasses):
    """Knows its pattern only for the first two steps."""

    def both(self, x, t, positive, negative, s):
        if t < self.scheduler.timesteps[1]:
            return self.network(x, t, positive)
        return super().both(x, t, positive, negative, s)


class Copies(TwoPasses):
    """What the first call returned is not what is combined."""

    def network(self, x, t, embeds):
        return super().network(x, t, embeds) * 1.0


class Stepless(PositiveFirst):
    def __call__(self, rows=(0, 1), guidance_scale=5.0):
        self.scheduler.set_timesteps(STEPS)
        x = tiny.latents(2)
        for t in self.scheduler.timesteps:
            x = x - 0.1 * self.both(x, t, EMBEDS[:2], EMBEDS[2:4], guidance_scale)
        return x


class Bypasses(PositiveFirst):
    def network(self, x, t, embeds):
        return self.unet.forward(x, t, encoder_hidden_states=embeds, return_dict=False)[0]


class Extra(NegativeFirst):
    """Guidance of its own in a further forward, as SAG's."""

    def both(self, x, t, positive, negative, s):
        return super().both(x, t, positive, negative, s) + 0 * self.network(x, t, negative)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Normed, "Normed does not combine its branches as"),
        (Three, "Three called its denoiser with 6 rows at step 0, for 6 images"),
        (Thrice, "Thrice called its denoiser with 2 and 2 and 2 rows at step 0"),
        (Scaled, "this pipeline cannot be guided"),
        (Tokens, "latents of type list; allowed is a tensor"),
        (Stops, "Stops did not evaluate its negative branch at step 2"),
        (Copies, "Copies changes the guided prediction"),
        (Stepless, "Stepless evaluated its denoiser without a step of its scheduler"),
        (Bypasses, "Bypasses did not evaluate its denoiser"),
        (Extra, "Extra called its denoiser with 4 and 2 rows at step 0"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_unlike_all_that_is_known_is_refused(kind, words):
    pipe = make(kind)
    with guided(pipe, CFG(5), quiet=True), pytest.raises((RuntimeError, ValueError), match=words):
        pipe()


class Forgets(PositiveFirst):
    """Learnt in the first run, and changed afterwards."""

    factor = 1.0

    def both(self, x, t, positive, negative, s):
        return self.factor * super().both(x, t, positive, negative, s)


class Later(PositiveFirst):
    """Changes what is guided, but not from the first step on."""

    def both(self, x, t, positive, negative, s):
        late = t < self.scheduler.timesteps[2]
        return (1.2 if late else 1.0) * super().both(x, t, positive, negative, s)


def test_what_reaches_the_scheduler_is_checked_at_every_step():
    pipe = make(Later)
    for guider in (CFG(5), CFG(1)):
        with (
            guided(pipe, guider, quiet=True),
            pytest.raises(RuntimeError, match=r"changes the guided prediction .* by 2.0e-01"),
        ):
            pipe()


def test_what_was_learnt_without_a_negative_branch_is_no_rule_for_one():
    for kind in KNOWN_PATTERNS:
        pipe = make(kind)
        with guided(pipe, CFG(1), quiet=True):
            pipe(guidance_scale=1)
            again = pipe(guidance_scale=5)
        assert error(again, pipe(guidance_scale=1)) < 1e-5


class SamePrompts(MadeUp):
    def both(self, x, t, positive, negative, s):
        c = self.network(x, t, positive)
        u = self.network(x, t, positive)
        return u + s * (c - u)


def test_branches_that_agree_teach_nothing_and_need_no_guidance():
    pipe = make(SamePrompts)
    ours, run = attached(pipe, CFG(5))
    assert error(ours, pipe(guidance_scale=1)) < 1e-5
    assert run.nfe == 2 * STEPS


class Upcast(TwoPasses):
    def network(self, x, t, embeds):
        return super().network(x.to(self.unet.dtype), t, embeds.to(self.unet.dtype)).float()


class UpcastOnce(NegativeFirst):
    def network(self, x, t, embeds):
        return super().network(x.to(self.unet.dtype), t, embeds.to(self.unet.dtype)).float()


@pytest.mark.parametrize("kind", [Upcast, UpcastOnce])
def test_an_upcast_is_learnt_in_half_precision(kind):
    pipe = make(kind).to(torch.bfloat16)
    own = pipe()
    assert error(pipe(guidance_scale=1), own) > 0.1
    # 1e-8 where no latent lies so near the middle of two bfloat16 numbers that it is rounded the
    # other way; one that does is an error of half precision.
    assert error(attached(pipe, CFG(5))[0], own) < 0.02


class Plain(torch.nn.Module):
    """A network of one's own: no dtype, no config, a tensor for an answer."""

    def __init__(self):
        super().__init__()
        self.inner = tiny.sd("ddim").unet

    def forward(self, x, t, encoder_hidden_states=None, return_dict=True):
        return self.inner(x, t, encoder_hidden_states=encoder_hidden_states).sample


class WithPlain(TwoPasses):
    def __init__(self, unet, scheduler):
        super().__init__(unet, scheduler)
        self.unet = Plain()

    def network(self, x, t, embeds):
        return self.unet(x, t, encoder_hidden_states=embeds)


def test_a_network_of_ones_own():
    pipe = make(WithPlain)
    assert error(attached(pipe, CFG(5))[0], pipe()) < 1e-5


class TwoRuns(PositiveFirst):
    def __call__(self, rows=(0, 1), guidance_scale=5.0):
        super().__call__(rows, guidance_scale)
        return super().__call__(rows, guidance_scale)


def test_a_call_of_several_runs_counts_them_all():
    pipe = make(TwoRuns)
    ours, run = attached(pipe, APG(5))
    assert run.nfe == 4 * STEPS
    assert len(run.records) == len(run.last.steps) == 2 * STEPS
    assert error(ours, attached(make(PositiveFirst), APG(5))[0]) < 1e-5


def test_what_reaches_the_scheduler_is_checked_in_every_run():
    pipe = make(Forgets)
    with guided(pipe, CFG(5), quiet=True):
        pipe()
        pipe.factor = 1.1
        with pytest.raises(RuntimeError, match=r"changes the guided prediction .* by 1.0e-01"):
            pipe()
