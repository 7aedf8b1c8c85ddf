"""Methods that ask a pipeline for more than its two predictions, held against loops by hand."""

import copy
import sys

import pytest
import tiny
import torch
import zoo
from accelerate import cpu_offload
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0
from errors import error
from guiders import (
    APG,
    CADS,
    CFG,
    Adaptive,
    CFGPlusPlus,
    CFGZeroStar,
    Confusion,
    Interval,
    Negative,
    PerturbedAttention,
    RewardGuidance,
    Stale,
    WeakModel,
    ZeroInit,
    guided,
    models,
    read_level,
)
from guiders.pipelines.context.decode import decode
from guiders.pipelines.patch.weak_models import load_network
from guiders.samplers import readout_at, solver_stage

PROMPTS = ("red heart", "blue car", "cat", "green apple")


def attached(pipe, guider, run=tiny.run, **options):
    with guided(pipe, guider, quiet=True) as attachment:
        return run(pipe, **{"guidance_scale": 2.0, **options}), attachment


def classify(x0):
    """A classifier of latents over the four prompts, which changes its mind."""
    weights = torch.randn(4, x0[0].numel(), generator=torch.Generator().manual_seed(3))
    return (
        40
        * torch.nn.functional.normalize(x0.flatten(1).to(weights.dtype), dim=1)
        @ (torch.nn.functional.normalize(weights, dim=1).T)
    )


class ByHand:
    """A pipeline's loop written out: ``rule(c, u, x, level, ask)`` answers with the guided x0.

    ``c`` and ``u`` are clean images; ``ask(prompt embeddings, network)`` evaluates another branch.
    """

    def __init__(self, pipe, weak=None):
        self.pipe, self.weak = pipe, weak
        with torch.no_grad():
            self.embeds = {text: pipe.encode_prompt(text, "cpu", 1, False)[0] for text in
                           (*PROMPTS, "")}  # fmt: skip

    @torch.no_grad()
    def run(self, rule, steps=6):
        scheduler, x = self.pipe.scheduler, tiny.latents(2)
        scheduler.set_timesteps(steps)
        x = x * scheduler.init_noise_sigma
        first = None
        for count, t in enumerate(scheduler.timesteps):
            seen = scheduler.scale_model_input(x, t)
            level = read_level(scheduler, t).level
            readout = readout_at(scheduler, level)

            def ask(texts, network=None, seen=seen, t=t, readout=readout):
                embeds = torch.cat([self.embeds[text] for text in texts])
                unet = self.pipe.unet if network is None else network
                return readout.x0(seen, unet(seen, t, embeds, return_dict=False)[0])

            if solver_stage(scheduler, count) == 0:
                first = level
            x0 = rule(ask, first, level)
            output = (x0 - readout.skip * seen) / readout.gain
            x = scheduler.step(output, t, x, return_dict=False)[0]
        return x


SOLVERS = ["ddim", "heun", "dpm++"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_apg_in_an_interval_until_it_agrees(solver):
    pipe = tiny.sd(solver)
    low, high, threshold = 0.3, 8.0, 0.9
    guider = APG(Adaptive(Interval(6, low, high), threshold), rescale=3.0, momentum=-0.5)
    ours, run = attached(pipe, guider)
    momentum, agreed, guided_rows = [0, 0], [False, False], []

    def rule(ask, first, level):
        c, u = ask(PROMPTS[:2]), ask(["", ""])
        out, new_step = c.clone(), first is level
        if new_step:  # the second stage of a step keeps the decision of the first
            inside = low < level.edm <= high
            guided_rows[:] = [row for row in range(2) if inside and not agreed[row]]
        for row in guided_rows:
            gap = c[row] - u[row] - 0.5 * momentum[row]
            if new_step:
                waiting[row] = gap
                cosine = torch.cosine_similarity(c[row].flatten(), u[row].flatten(), dim=0)
                agreed[row] = bool(cosine >= threshold)
            g = gap * min(1.0, 3.0 / gap.norm().item())
            g = g - (g * c[row]).sum() / c[row].square().sum() * c[row]
            out[row] = c[row] + 5 * g
        return out

    waiting = {}

    def with_memory(ask, first, level):
        if first is level:  # what a step wrote counts from the next one on
            for row, gap in waiting.items():
                momentum[row] = gap
        return rule(ask, first, level)

    by_hand = ByHand(pipe).run(with_memory)
    assert any(agreed)
    assert run.nfe < 2 * len(run.records)
    assert error(ours, by_hand) < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
def test_confusion_with_autoguidance(solver):
    pipe = tiny.sd(solver)
    torch.manual_seed(5)
    weak = tiny.sd(solver).unet
    for parameter in weak.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    reference = Confusion(
        PROMPTS, classify, "latents", threshold=0.6, otherwise=WeakModel(weak), model=weak,
        gain="one",
    )  # fmt: skip
    ours, run = attached(pipe, CFG(3, reference=reference), guidance_scale=1.0)
    seen = set()
    kept = {}

    def rule(ask, first, level):
        c = ask(PROMPTS[:2])
        p = classify(c).softmax(dim=1)
        if first is level:  # the second stage of a step keeps the decision of the first
            kept["texts"] = []
            for row in range(2):
                wrong = [k for k in range(4) if k != row]
                worst = max(wrong, key=lambda k: p[row, k].item())
                kept["texts"].append(PROMPTS[worst] if p[row, row] < 0.6 else PROMPTS[row])
            seen.update(enumerate(kept["texts"]))
        r = ask(kept["texts"], weak)
        return c + 2 * (c - r)

    by_hand = ByHand(pipe).run(rule)
    assert {text != PROMPTS[row] for row, text in seen} == {True, False}, "now and then confused"
    assert run.nfe == 2 * len(run.records)
    assert error(ours, by_hand) < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
def test_cfg_with_perturbed_attention(solver):
    pipe = tiny.sd(solver)
    guider = CFG(5) + CFG(4, reference=PerturbedAttention())
    ours, run = attached(pipe, guider)
    perturbed = copy.deepcopy(pipe.unet)  # by Diffusers' own processor
    for name, module in perturbed.mid_block.named_modules():
        if name.endswith("attn1"):
            module.set_processor(PAGIdentitySelfAttnProcessor2_0())

    def rule(ask, first, level):
        c, u = ask(PROMPTS[:2]), ask(["", ""])
        # the processor leaves the first half of a batch as it is
        seen, t, readout = ask.__defaults__[1:]
        embeds = torch.cat([hand.embeds[text] for text in [*PROMPTS[:2], *PROMPTS[:2]]])
        both = perturbed(torch.cat([seen, seen]), t, embeds, return_dict=False)[0]
        p = readout.x0(seen, both[2:])
        return c + 4 * (c - u) + 3 * (c - p)

    hand = ByHand(pipe)
    assert error(ours, hand.run(rule)) < 1e-4
    assert run.nfe == 3 * len(run.records)


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_confusion_mixed_with_cfg(solver):
    pipe = tiny.sd(solver)
    reference = Confusion(PROMPTS, classify, "latents", threshold=0.6, otherwise=Negative())
    ours, run = attached(pipe, CFG(3, reference=reference))

    def rule(ask, first, level):
        c, u = ask(PROMPTS[:2]), ask(["", ""])
        p = classify(c).softmax(dim=1)
        out = []
        for row in range(2):
            worst = max((k for k in range(4) if k != row), key=lambda k: p[row, k].item())
            texts = [PROMPTS[worst] if n == row else PROMPTS[n] for n in range(2)]
            if p[row, row] < 0.6:
                gap = (1 - p[row, row]) * (c[row] - ask(texts)[row])
            else:
                gap = c[row] - u[row]
            out.append(c[row] + 2 * gap)
        return torch.stack(out)

    assert error(ours, ByHand(pipe).run(rule)) < 1e-4
    assert run.nfe == 12


def test_confusion_of_classes():
    """DiT: the condition is a class; its pipeline has [class, null] in one forward."""
    pipe = zoo.build("dit")
    labels = (7, 107, 300, 400)
    reference = Confusion(labels, classify, "latents", gain="one", threshold=1.0)
    asked = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append(kwargs["class_labels"].tolist()), with_kwargs=True
    )
    with guided(pipe, CFG(3, reference=reference), quiet=True) as run:
        both = zoo.run("dit", pipe)
        one = zoo.run("dit", pipe, rows=(1,))
    handle.remove()
    assert {label for labels_ in asked for label in labels_} <= set(labels)
    assert len({tuple(a) for a in asked}) > 2
    assert run.nfe == 8
    assert error(both[1], one[0]) < 1e-4
    with (
        guided(pipe, CFG(3, reference=Confusion((1, 2), classify, "latents")), quiet=True),
        pytest.raises(ValueError, match="an image's prompt is 7; allowed is one of the prompts"),
    ):
        zoo.run("dit", pipe)


class Worded(DiffusionPipeline):
    """Somebody's own pipeline of two passes, with prompts; negative first where it says so."""

    first = "positive"

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, prompt=PROMPTS[:2], guidance_scale=5.0, num_inference_steps=5):
        table = torch.randn(5, 16, 32, generator=torch.Generator().manual_seed(7))
        positive = table[[PROMPTS.index(text) for text in prompt]]
        self.scheduler.set_timesteps(num_inference_steps)
        x = tiny.latents(4)[: len(prompt)]
        for t in self.scheduler.timesteps:
            told = {"positive": positive, "negative": table[4:].expand(len(prompt), -1, -1)}
            roles = sorted(told, reverse=self.first == "positive")
            if guidance_scale <= 1:
                roles = ["positive"]
            said = {
                role: self.unet(x, t, encoder_hidden_states=told[role], return_dict=False)[0]
                for role in roles
            }
            output = said["positive"]
            if guidance_scale > 1:
                output = said["negative"] + guidance_scale * (output - said["negative"])
            x = self.scheduler.step(output, t, x, return_dict=False)[0]
        return x


class NegativeFirst(Worded):
    first = "negative"


@pytest.mark.parametrize("kind", [Worded, NegativeFirst])
@pytest.mark.parametrize("otherwise", [None, Negative()])
def test_confusion_where_the_passes_are_two_and_nobody_knows_the_pipeline(kind, otherwise):
    stock = tiny.sd("ddim")
    pipe = kind(stock.unet, stock.scheduler)
    pipe.set_progress_bar_config(disable=True)
    reference = Confusion(PROMPTS, classify, "latents", otherwise=otherwise, threshold=0.6)
    with guided(pipe, CFG(3, reference=reference), quiet=True) as run:
        first, again = pipe(), pipe()
        batch = torch.cat([pipe([text]) for text in PROMPTS[:1]])
    assert error(again, first) < 1e-5
    assert error(batch[0], first[0]) < 1e-4
    table = {b for call in run.calls for record in call.records for b in record.evaluations}
    assert table <= {1, 2, 3}
    plain = pipe(guidance_scale=1)
    assert error(first, plain) > 1e-3


def test_a_run_with_other_prompts_draws_the_same_random_numbers():
    pipe = tiny.sd("ddim")
    reference = Confusion(PROMPTS, lambda x0: torch.zeros(len(x0), 4), "latents", below=0.0)

    def draw(guider):
        torch.manual_seed(11)
        with guided(pipe, guider, quiet=True):
            latents = pipe("red heart", num_inference_steps=3, output_type="latent").images
        return latents, torch.rand(1)

    same, after = draw(CFG(3, reference=reference))
    plain, then = draw(CFG(1))
    assert error(same, plain) < 1e-6
    assert torch.equal(after, then)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("sd-controlnet", (0, 1)), ("sd-img2img", (0, 1, 2)), ("sd-inpaint", (0, 1)),
     ("sdxl-controlnet", (0, 1)), ("sd3", (0, 1))],
)  # fmt: skip
def test_confusion_beside_pictures_and_controlnets(name, rows):
    """Other prompts are told with one image's picture, whatever the counts of both."""
    if name == "sd3":
        name, rows = "sdxl-img2img", (0, 1, 2)
    pipe = zoo.build(name)
    reference = Confusion(PROMPTS, classify, "latents", gain="one", threshold=1.0)
    with guided(pipe, CFG(3, reference=reference), quiet=True) as run:
        together = zoo.run(name, pipe, rows=rows)
        one = zoo.run(name, pipe, rows=rows[1:2])
    assert run.nfe > len(run.records)
    assert error(together[1], one[0]) < 2e-4


def test_other_prompts_keep_what_a_distilled_network_is_told():
    """Flux's guidance is an argument of its transformer, not a part of the prompt."""
    from guiders.pipelines.patch.call_arguments import Inputs

    x, t = torch.zeros(2, 4), torch.ones(2)
    own = Inputs((), {"hidden_states": x, "timestep": t, "guidance": torch.full((2,), 3.5),
                      "encoder_hidden_states": torch.zeros(2, 5)})  # fmt: skip
    other = Inputs((), {"hidden_states": x[:1], "timestep": t[:1], "guidance": torch.ones(1),
                        "encoder_hidden_states": torch.ones(1, 5)})  # fmt: skip
    told = own.told([None, other]).kwargs
    assert told["guidance"].tolist() == [3.5, 3.5]
    assert told["encoder_hidden_states"].mean(dim=1).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="told nothing that depends on the prompt"):
        Inputs((), {"hidden_states": x, "timestep": t}).told([None, other])


def test_prompts_of_videos_have_a_row_for_each_frame():
    from guiders.pipelines.patch.call_arguments import Inputs

    frames = 3
    own = Inputs((torch.zeros(2, 4), 1), {"encoder_hidden_states": torch.zeros(2 * frames, 5)})
    other = Inputs((torch.zeros(1, 4), 1), {"encoder_hidden_states": torch.ones(frames, 5)})
    told = own.told([other, None]).kwargs["encoder_hidden_states"]
    assert told.mean(dim=1).tolist() == [1.0] * 3 + [0.0] * 3
    noisy = own.embedded([1], lambda name, value: value + 2).kwargs["encoder_hidden_states"]
    assert noisy.mean(dim=1).tolist() == [0.0] * 3 + [2.0] * 3


def test_every_prompt_is_encoded_once():
    pipe = tiny.sd("ddim")
    encoded = []
    pipe.text_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(len(args[0] if args else kwargs["input_ids"])),
        with_kwargs=True,
    )
    reference = Confusion(PROMPTS, classify, "latents")
    with guided(pipe, CFG(3, reference=reference), quiet=True):
        tiny.run(pipe, guidance_scale=1.0)
    assert encoded == [1, 1, 1, 1, 2]  # the guider's, and those of the call


def test_prompts_are_needed_to_be_told_apart():
    pipe = zoo.build("flux")
    with (
        guided(pipe, CFG(3, reference=Confusion(PROMPTS, classify, "latents")), quiet=True),
        pytest.raises(ValueError, match="without a prompt"),
    ):
        zoo.run("flux", pipe)


def quadratic(pictures, prompts):
    return -(pictures - 0.5).square().flatten(1).sum(dim=1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_reward_through_the_network(solver):
    """Universal guidance beside CFG, on decoded pictures."""
    pipe = tiny.sd(solver)
    guider = CFG(3) + RewardGuidance(0.02, quadratic)
    ours, run = attached(pipe, guider)
    hand = ByHand(pipe)
    steps = pipe.unet

    def rule(ask, first, level):
        c, u = ask(PROMPTS[:2]), ask(["", ""])
        seen, t, readout = ask.__defaults__[1:]
        with torch.enable_grad():
            x = seen.clone().requires_grad_()
            embeds = torch.cat([hand.embeds[text] for text in PROMPTS[:2]])
            x0 = readout.x0(x, steps(x, t, embeds, return_dict=False)[0])
            value = quadratic(decode(pipe, x0) / 2 + 0.5, None)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return c + 2 * (c - u) + level.std**2 / level.alpha * 0.02 * gradient

    by_hand = hand.run(rule)
    assert error(ours, by_hand) < 1e-4
    assert error(ours, attached(pipe, CFG(3))[0]) > 1e-3
    assert run.nfe == 2 * len(run.records)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_reward_under_the_callers_mode(mode):
    pipe = tiny.sd("ddim")
    guider = CFG(3) + RewardGuidance(0.02, quadratic)
    free = attached(pipe, guider)[0]
    with mode():
        assert torch.equal(attached(pipe, guider)[0], free)


@pytest.mark.parametrize("name", ["flux", "sdxl-controlnet", "dit", "sana", "wan"])
def test_a_reward_in_pipelines_of_every_form(name):
    if name not in zoo.ZOO:
        name = next(n for n in zoo.ZOO if "controlnet" in n)
    pipe = zoo.build(name)

    def near_zero(x0, prompts):
        return -x0.float().square().flatten(1).sum(dim=1)

    guider = CFG(2) + RewardGuidance(0.5, near_zero, "latents", "network", low=0.1, high=0.5)
    plain = zoo.run(name, pipe)
    with guided(pipe, CFG(2), quiet=True):
        cfg = zoo.run(name, pipe)
    with guided(pipe, guider, quiet=True):
        both, one = zoo.run(name, pipe), zoo.run(name, pipe, rows=(1,))
    assert error(both[1], one[0]) < 2e-4
    assert both.norm() < cfg.norm()
    assert torch.equal(zoo.run(name, pipe), plain)
    network = getattr(pipe, "transformer", None) or pipe.unet
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", ["sd3", "flux", "wan", "lumina2", "qwen-image"])
def test_zero_init_moves_nothing(name):
    pipe = zoo.build(name)
    with guided(pipe, CFGZeroStar(3) | ZeroInit(4), quiet=True) as run:
        still = zoo.run(name, pipe)
    assert run.nfe == 0
    start = []
    with guided(pipe, CFGZeroStar(3) | ZeroInit(1), quiet=True) as run:
        network = pipe.transformer
        handle = network.register_forward_pre_hook(
            lambda _, args, kwargs: start.append(kwargs["hidden_states"].clone()), with_kwargs=True
        )
        moved = zoo.run(name, pipe)
        handle.remove()
    assert run.nfe == 6
    assert len(still) == len(moved)
    assert error(start[0][: len(still)], still) < 2e-5


def test_zero_init_is_refused_elsewhere():
    with pytest.raises(ValueError, match="allowed are flows"):
        attached(tiny.sd("ddim"), CFG(3) | ZeroInit())


def test_cads_is_not_ignored_where_the_pipeline_is_learnt(monkeypatch):
    guider = CFG(5) | CADS(low=0, high=0.5, noise_scale=1.0)
    pipe = tiny.sd("ddim")
    listed, _ = attached(pipe, guider, steps=3)
    monkeypatch.setattr(
        sys.modules["guiders.pipelines.attach.attachment"], "form_of", lambda pipe: None
    )
    learnt, run = attached(pipe, guider, steps=3)
    assert error(learnt, listed) < 1e-5
    assert [sum(record.evaluations) for record in run.records] == [6, 4, 4]


def test_cads_changes_what_the_positive_branch_is_told():
    pipe = tiny.sd("ddim")
    told = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(kwargs["encoder_hidden_states"].clone()),
        with_kwargs=True,
    )
    plain, _ = attached(pipe, CFG(3))
    clean = told.pop()
    told.clear()
    noisy, _ = attached(pipe, CFG(3) | CADS(0.3, 0.7, noise_scale=0.5))
    handle.remove()
    assert all(torch.equal(each[:2], clean[:2]) for each in told)  # the negative half
    changed = [not torch.equal(each[2:], clean[2:]) for each in told]
    assert changed == [True] * 4 + [False] * 2  # times 1, .8, .6, .4, .2, 0
    assert error(noisy, plain) > 1e-3
    alone = attached(pipe, CFG(3) | CADS(0.3, 0.7, noise_scale=0.5), batch=1)[0]
    assert error(alone[0], noisy[0]) < 1e-4
    with pytest.raises(ValueError, match="is told no embedding of a prompt"):
        attached(zoo.build("dit"), CFG(3) | CADS(), run=lambda pipe, **_: zoo.run("dit", pipe))


def test_the_noise_of_cads_follows_from_generators_and_not_from_what_the_network_sees(monkeypatch):
    """Pictures that come through an autoencoder differ in their last bits between devices."""
    pipe = tiny.sd("ddim")

    def draw(rows=(0, 1), nudge=0.0, one=False, **options):
        told = []

        def look(_, args, kwargs):
            told.append(kwargs["encoder_hidden_states"][-len(rows) :].clone())
            return (args[0] + nudge, *args[1:]), kwargs

        handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
        prepare = type(pipe).prepare_latents
        monkeypatch.setattr(
            type(pipe), "prepare_latents", lambda *a, **k: prepare(*a, **k) * (1 + nudge)
        )
        generators = [torch.Generator().manual_seed(row) for row in rows]
        with guided(pipe, CFG(3) | CADS(0.3, 0.7, noise_scale=0.5), quiet=True):
            pipe(
                ["red heart", "blue car"][: len(rows)], num_inference_steps=2,
                output_type="latent", generator=generators[0] if one else generators, **options,
            )  # fmt: skip
        handle.remove()
        monkeypatch.undo()
        return told[0]

    both = draw()
    assert torch.equal(both, draw(nudge=1e-6))
    torch.testing.assert_close(draw(rows=(0,), one=True)[0], both[0])
    assert not torch.equal(both, draw(rows=(0, 2)))
    assert torch.equal(both[0], draw(rows=(0, 2))[0])
    shared = draw(one=True)
    assert torch.equal(shared, draw(one=True, nudge=1e-6))
    given = draw(latents=tiny.latents())
    assert torch.equal(given, draw(latents=tiny.latents(), nudge=1e-6))
    assert not torch.equal(given, draw(latents=tiny.latents(seed=1)))


@pytest.mark.parametrize("keep", ["x0", "eps", "output"])
def test_the_stale_difference_in_a_pipeline(keep):
    pipe = tiny.sd("ddim", "v_prediction")
    ours, run = attached(pipe, CFG(4, reference=Stale(-1, keep=keep)))
    assert [record.evaluations for record in run.records] == [[2, 2]] + [[1, 1]] * 5
    kept = {}

    def rule(ask, first, level):
        c, fades = ask(PROMPTS[:2]), {"x0": 1, "eps": level.edm, "output": level.std}[keep]
        kept.setdefault("gap", (c - ask(["", ""])) / fades)
        return c + 3 * kept["gap"] * fades

    assert error(ours, ByHand(pipe).run(rule)) < 1e-4


def test_a_schedule_for_first_order_says_so_elsewhere(recwarn):
    attached(tiny.sd("ddim"), CFG(CFGPlusPlus(0.6)))
    attached(tiny.sd("euler"), CFG(Interval(CFGPlusPlus(0.6))))
    assert not [w for w in recwarn if "first order" in str(w.message)]
    with pytest.warns(UserWarning, match="meant for solvers of first order"):
        attached(tiny.sd("dpm++"), CFG(Interval(CFGPlusPlus(0.6))))


def test_an_overflow_is_not_called_an_unknown_pipeline():
    pipe = tiny.sd("ddim").to(torch.float16)
    with pytest.raises(RuntimeError, match=r"the guided prediction at step 0 .* has NaN or inf"):
        attached(pipe, CFG(1e6), steps=2)


def test_diagnostics_of_a_pipeline():
    pipe = tiny.sd("ddim")
    weak = WeakModel(tiny.sd("ddim").unet)
    plain, _ = attached(pipe, CFG(3, reference=weak))
    with guided(pipe, CFG(3, reference=weak), quiet=True, diagnose=True) as run:
        seen = tiny.run(pipe, guidance_scale=2.0)
    assert error(seen, plain) < 1e-5
    assert run.nfe == 12
    assert len(run.records[0].diagnosis.effective_scale) == 2
    with guided(pipe, CFG(4.5), quiet=True, diagnose=True) as run:
        tiny.run(pipe, guidance_scale=2.0)
    scales = [value for record in run.records for value in record.diagnosis.effective_scale]
    assert scales == pytest.approx([4.5] * 12, abs=1e-3)
    with (
        guided(pipe, CFG(3, reference=weak), quiet=True, diagnose=True),
        pytest.raises(ValueError, match=r"guidance_scale is 1, .* that diagnose=True needs"),
    ):
        tiny.run(pipe, guidance_scale=1.0)


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_network_that_breaks_stops_the_run_with_the_step(at):
    pipe = tiny.sd("ddim")
    count = []

    def spoil(module, args, output):
        count.append(None)
        if len(count) == at + 1:
            output[0][2, 0, 0, 0] = torch.nan
        return output

    pipe.unet.register_forward_hook(spoil)
    with pytest.raises(RuntimeError, match=rf"the network's positive prediction at step {at} "):
        attached(pipe, CFG(3))
    assert len(count) <= at + 2


def test_a_weak_model_by_name_is_the_network(tmp_path):
    pipe = models.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": 1.0}

    def draw(model):
        generator = torch.Generator().manual_seed(0)
        with guided(pipe, CFG(2, reference=WeakModel(model)), quiet=True):
            return pipe("red heart", generator=generator, **options).images

    named = draw("emoji-weak")
    with (
        pytest.raises(
            ValueError, match="reward is 'brightness' and an image's prompt is not known"
        ),
        guided(pipe, CFG(2) + RewardGuidance(1.0, "brightness"), quiet=True),
    ):
        pipe(prompt_embeds=torch.zeros(1, 16, 192), num_inference_steps=2,
             negative_prompt_embeds=torch.zeros(1, 16, 192))  # fmt: skip
    assert torch.equal(named, draw(models.load("emoji-weak")))
    models.load("emoji-weak").save_pretrained(tmp_path / "unet")
    assert error(draw(str(tmp_path)), named) < 1e-5
    weak = load_network("emoji-weak", pipe.unet, torch.zeros(1))
    assert load_network("emoji-weak", pipe.unet, torch.zeros(1)) is weak
    assert (weak.dtype, weak.device) == (pipe.unet.dtype, torch.device("cpu"))


def test_a_weak_model_by_name_is_loaded_where_the_latents_are():
    """Under offloading the denoiser's parameters are elsewhere, or nowhere."""
    network = models.load("emoji").unet.to(torch.bfloat16)
    cpu_offload(network, execution_device=torch.device("cpu"))
    assert next(network.parameters()).device.type == "meta"
    weak = load_network("emoji-weak", network, torch.zeros(1))
    assert (weak.dtype, weak.device) == (torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pictures_of_an_autoencoder_that_is_offloaded(dtype):
    """Its layers are brought one by one; in half precision it is decoded in full nevertheless."""
    pipe, x0 = tiny.sd(), tiny.latents()
    pipe.vae.register_to_config(force_upcast=True)
    pipe.vae.to(dtype)
    wanted = decode(pipe, x0)
    cpu_offload(pipe.vae, execution_device=torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(decode(pipe, x0), wanted, rtol=1e-5, atol=1e-5)
    assert pipe.vae.dtype == dtype
    x0.requires_grad_()
    decode(pipe, x0).sum().backward()
    assert x0.grad.abs().sum() > 0


def test_a_classifier_that_ships():
    pipe = models.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    prompts = ("red heart", "blue heart", "banana")
    with guided(pipe, CFG(5, reference=Confusion(prompts)), quiet=True) as run:
        pipe("red heart", num_inference_steps=4, output_type="latent")
        pipe(["blue heart", "apple"], num_inference_steps=2, output_type="latent")
    assert 4 <= run.calls[0].nfe <= 8
    labels = Confusion(("food", "animal"), "emoji-classifier")
    with (
        guided(pipe, CFG(5, reference=labels), quiet=True),
        pytest.raises(ValueError, match="a prompt is 'animal'; allowed with the classifier"),
    ):
        pipe("food", num_inference_steps=2, output_type="latent")
    with (
        guided(pipe, CFG(5, reference=Confusion(prompts, "nowhere")), quiet=True),
        pytest.raises(ValueError, match="classifier is 'nowhere'; allowed is one of emoji-clip"),
    ):
        pipe("red heart", num_inference_steps=2, output_type="latent")


def test_an_autoencoder_that_overflows_is_decoded_in_full_precision():
    pipe = tiny.sd("ddim")
    x0 = tiny.latents(2)
    exact = decode(pipe, x0)
    pipe.vae.to(torch.float16).register_to_config(force_upcast=True)
    x0.requires_grad_()
    pictures = decode(pipe, x0)
    assert pictures.dtype == torch.float32
    assert error(pictures.detach(), exact) < 1e-2
    pictures.sum().backward()
    assert x0.grad.isfinite().all()
    assert pipe.vae.dtype == torch.float16
