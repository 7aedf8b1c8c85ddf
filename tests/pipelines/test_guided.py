"""A guider on stock pipelines, against the pipelines' own guidance."""

import copy
import math
import pickle

import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
)
from errors import error
from guiders import (
    APG,
    CFG,
    TCFG,
    Adaptive,
    CFGZeroStar,
    Guider,
    Interval,
    Linear,
    MagnitudeAware,
    Rescale,
    WeakModel,
    guided,
)
from guiders.guidance import NEGATIVE, POSITIVE, Denoiser, Prediction, Query
from guiders.pipelines.patch.class_swap import restore, swap
from guiders.samplers import read_level
from known import step
from products import product

KINDS = ("epsilon", "v_prediction")
EVALUATIONS = {"heun": 11, "pndm": 7}  # network calls in six steps, where not six
QUICK = (("ddim", "epsilon"), ("heun", "v_prediction"))  # one evaluation a step, and two
every_case = pytest.mark.parametrize(
    ("name", "kind"), product(tiny.SCHEDULERS, KINDS, quick=lambda *case: case in QUICK)
)


def attached(pipe, guider, **options):
    with guided(pipe, guider, quiet=True) as run:
        return tiny.run(pipe, **options), run


@every_case
def test_a_whole_run_of_cfg_is_the_pipelines_own(name, kind):
    pipe = tiny.sd(name, kind)
    own = tiny.run(pipe, guidance_scale=7.5)
    ours, run = attached(pipe, CFG(7.5), guidance_scale=3)
    assert error(own, tiny.run(pipe, guidance_scale=1)) > 0.1  # guidance does something here
    assert error(ours, own) < 1e-5
    assert run.nfe == 2 * EVALUATIONS.get(name, 6)


@every_case
def test_apg_without_its_parts_is_cfg(name, kind):
    pipe = tiny.sd(name, kind)
    cfg, _ = attached(pipe, CFG(7.5))
    neutral, _ = attached(pipe, APG(7.5, eta=1, rescale=0, momentum=0))
    full, _ = attached(pipe, APG(7.5))
    assert error(neutral, cfg) < 1e-6
    assert error(full, cfg) > 1e-3


@every_case
def test_scale_one_is_bit_for_bit_the_unguided_output(name, kind):
    pipe = tiny.sd(name, kind)
    ours, run = attached(pipe, CFG(1))
    assert torch.equal(ours, tiny.run(pipe, guidance_scale=1))
    assert run.nfe == EVALUATIONS.get(name, 6)
    assert all(record.skipped == [0, 1] for record in run.records)


@every_case
def test_two_equal_halves_are_bit_for_bit_the_half(name, kind):
    """The pipeline's own expression, returned in both halves, must come out of it unchanged."""
    pipe = tiny.sd(name, kind)
    own = tiny.run(pipe, guidance_scale=7.5)

    def call(original, network, *args, **kwargs):
        (output,) = original(network, *args, **kwargs)
        u, c = output.chunk(2)
        return (torch.cat([u + 7.5 * (c - u)] * 2),)

    swap(pipe.unet, {"__call__": call})
    ours = tiny.run(pipe, guidance_scale=7.5)
    restore(pipe.unet)
    assert torch.equal(ours, own)


def outputs(pipe, **options):
    """What the denoiser of an unattached pipeline sees and says: (scheduler, t, x, output)."""
    seen = []

    def look(module, args, kwargs, result):
        seen.append((copy.copy(pipe.scheduler), args[1], args[0], result[0]))

    handle = pipe.unet.register_forward_hook(look, with_kwargs=True)
    tiny.run(pipe, guidance_scale=7.5, **options)
    handle.remove()
    return seen


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_step_of_cfg_is_as_exact_as_the_pipelines_own(name, kind, dtype):
    pipe = tiny.sd(name, kind).to(dtype)
    for scheduler, t, x, output in outputs(pipe):
        readout = read_level(scheduler, t).readout
        seen = x[2:]

        def network(q, requests, seen=seen, output=output, readout=readout):
            halves = {NEGATIVE: output[:2], POSITIVE: output[2:]}
            return {b: Prediction(seen, halves[b], readout) for b in requests}

        ours = Denoiser(CFG(7.5), 2)(Query(seen, step()), network).output
        u, c = output.chunk(2)
        own = u + 7.5 * (c - u)
        exact = u.double() + 7.5 * (c.double() - u.double())
        assert ours.dtype == dtype
        if dtype == torch.float32:
            assert error(ours, own) < 1e-6
        assert error(ours, exact) <= max(error(own, exact), 2e-7)


GUIDERS = [
    CFG(7.5),
    APG(7.5),
    APG(7.5, rescale=2, momentum=-0.75, eta=0.2),
    CFG(Interval(7.5, low=0.5, high=6)),
    APG(Adaptive(7.5, threshold=0.9)),
    CFG(4) + APG(3) | Rescale(0.7),
    CFGZeroStar(4) + TCFG(3),
    MagnitudeAware(7.5, alpha=2),
]
every_guider = pytest.mark.parametrize(
    ("name", "kind", "guider"),
    product(tiny.SCHEDULERS, KINDS, GUIDERS, quick=lambda name, *_: name == "ddim"),
)


@every_guider
def test_a_batch_is_a_loop(name, kind, guider):
    pipe = tiny.sd(name, kind)
    together, run = attached(pipe, guider)
    prompts = ["red heart", "blue car"]
    for row in range(2):
        with guided(pipe, guider, quiet=True) as alone:
            one = pipe(
                prompts[row], num_inference_steps=6, latents=tiny.latents()[row : row + 1],
                output_type="latent",
            ).images  # fmt: skip
        cosines = [c for record in run.records for c in record.cosines[row]]
        threshold = (
            guider.scale.threshold if isinstance(getattr(guider, "scale", 0), Adaptive) else 2
        )
        assert all(math.isnan(c) or abs(c - threshold) > 1e-4 for c in cosines), (
            "choose another seed"
        )
        assert alone.last.evaluations == [run.last.evaluations[row]]
        assert error(one[0], together[row]) < 1e-5


@every_guider
def test_a_second_run_is_the_first_in_one_with_and_in_two(name, kind, guider):
    pipe = tiny.sd(name, kind)
    with guided(pipe, guider, quiet=True) as run:
        first, second = tiny.run(pipe), tiny.run(pipe)
    third, _ = attached(pipe, guider)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert len(run.calls) == 2
    assert run.calls[0].evaluations == run.calls[1].evaluations


def test_rows_are_really_skipped():
    """Counted by a hook on the network, not by our own counter."""
    pipe, rows = tiny.sd("ddim"), []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    for guider in (
        CFG(Adaptive(7.5, threshold=0.9)),
        CFG([1, 5]),
        CFG(Interval(5, 0.5, 3)),
        CFG(5),
    ):
        rows.clear()
        _, run = attached(pipe, guider)
        assert sum(rows) == run.nfe * 2 == sum(run.last.evaluations)
        assert len(rows) == 6  # one forward a step
        if guider != CFG(5):
            assert min(rows) < 4
    handle.remove()


def test_adaptive_stops_each_image_on_its_own():
    pipe = tiny.sd("ddim")
    with guided(pipe, CFG(7.5), quiet=True, cosines=True) as full:
        tiny.run(pipe)
    by_image = list(zip(*([c for (c,) in record.cosines] for record in full.records), strict=True))
    threshold = sum(max(row[:3]) for row in by_image) / 2  # between the two images
    _, run = attached(pipe, CFG(Adaptive(7.5, threshold=threshold)))
    scales = [[s for (s,) in record.scales] for record in run.records]
    assert run.last.evaluations[0] != run.last.evaluations[1]
    for row in zip(*scales, strict=True):
        switch = row.index(1) if 1 in row else len(row)
        assert all(s == 7.5 for s in row[:switch])
        assert all(s == 1 for s in row[switch:])
    same, _ = attached(pipe, CFG(Adaptive(7.5, threshold=1)))
    assert torch.equal(same, attached(pipe, CFG(7.5))[0])


def test_an_interval_guides_only_inside():
    pipe = tiny.sd("euler")
    _, run = attached(pipe, CFG(Interval(7.5, low=0.5, high=6)))
    for record in run.records:
        assert (record.scales == [(7.5,)] * 2) == (0.5 < record.sigma <= 6)


def test_a_scale_for_each_image_and_a_guider_for_each_prompt():
    pipe = tiny.sd("ddim")
    mixed, _ = attached(pipe, CFG([3, 9]))
    assert error(mixed[0], attached(pipe, CFG(3))[0][0]) < 1e-5
    assert error(mixed[1], attached(pipe, CFG(9))[0][1]) < 1e-5
    mixed, _ = attached(pipe, [CFG(3), APG(9)])
    assert error(mixed[0], attached(pipe, CFG(3))[0][0]) < 1e-5
    assert error(mixed[1], attached(pipe, APG(9))[0][1]) < 1e-5


def test_several_images_per_prompt():
    pipe = tiny.sd("ddim")
    with guided(pipe, [CFG(3), CFG(9)], quiet=True) as run:
        pipe(["a", "b"], num_images_per_prompt=2, num_inference_steps=2, output_type="latent")
    assert run.records[0].scales == [(3,), (3,), (9,), (9,)]


def test_sdxl():
    pipe = tiny.sdxl()
    own = tiny.run(pipe, guidance_scale=6)
    ours, run = attached(pipe, CFG(6))
    assert error(ours, own) < 1e-5
    assert torch.equal(attached(pipe, CFG(1))[0], tiny.run(pipe, guidance_scale=1))
    skipping, run = attached(pipe, CFG(Adaptive(6, threshold=0.9)))
    assert run.nfe < 12
    assert torch.isfinite(skipping).all()


def test_a_callback_may_stop_a_run_and_the_next_begins_afresh():
    pipe = tiny.sd("ddim")

    def stop(pipe, i, t, values):
        pipe._interrupt = i == 2
        return values

    with guided(pipe, APG(7.5), quiet=True) as run:
        tiny.run(pipe, callback_on_step_end=stop)
        full = tiny.run(pipe)
    assert [len(call.records) for call in run.calls] == [3, 6]
    assert torch.equal(full, attached(pipe, APG(7.5))[0])


def test_the_pipeline_is_restored():
    pipe = tiny.sd("ddim")
    unet, kinds = pipe.unet, (type(pipe.unet), type(pipe.scheduler))
    before = tiny.run(pipe, guidance_scale=7.5)
    state = {k: v for k, v in vars(pipe.unet).items() if not k.startswith("_forward")}
    with pytest.raises(ZeroDivisionError), guided(pipe, CFG(3), quiet=True):
        tiny.run(pipe)
        assert isinstance(pipe.unet, kinds[0])
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="inside"), guided(pipe, lambda_guider(), quiet=True):
        tiny.run(pipe)
    assert pipe.unet is unet
    assert (type(pipe.unet), type(pipe.scheduler)) == kinds
    assert state.keys() == {k for k in vars(pipe.unet) if not k.startswith("_forward")}
    assert torch.equal(tiny.run(pipe, guidance_scale=7.5), before)


def lambda_guider():
    def fail(step):
        raise RuntimeError("inside")

    return CFG(fail)


def test_the_plan_line(capsys):
    pipe = tiny.sd("heun")
    with guided(pipe, APG(10, rescale=15)):
        tiny.run(pipe)
        tiny.run(pipe)
    assert capsys.readouterr().err.strip().splitlines() == [
        "APG scale 10, eta 0, rescale 15, momentum -0.5; 6 steps; at most 22 evaluations per image"
    ]


def test_a_guidance_scale_of_one_is_an_error_only_where_it_matters():
    pipe = tiny.sd("ddim")
    with (
        guided(pipe, CFG(5), quiet=True),
        pytest.raises(ValueError, match=r"guidance_scale is 1.*above 1"),
    ):
        tiny.run(pipe, guidance_scale=1)
    with guided(pipe, CFG(1), quiet=True) as run:
        tiny.run(pipe, guidance_scale=1)
    assert run.nfe == 6


def test_the_pipelines_own_rescale_is_refused_loudly():
    pipe = tiny.sd("ddim")
    with guided(pipe, CFG(5), quiet=True), pytest.warns(UserWarning, match="guidance_rescale=0.7"):
        ours = tiny.run(pipe, guidance_rescale=0.7)
    assert torch.equal(ours, attached(pipe, CFG(5))[0])


def test_rescale_is_the_pipelines_own():
    pipe = tiny.sd("ddim", "v_prediction")
    own = tiny.run(pipe, guidance_scale=7.5, guidance_rescale=0.7)
    ours, _ = attached(pipe, CFG(7.5) | Rescale(0.7))
    assert error(ours, own) < 1e-5


def test_attaching_twice_is_an_error():
    pipe = tiny.sd("ddim")
    with guided(pipe, CFG(5)), pytest.raises(RuntimeError, match="attached"), guided(pipe, APG(5)):
        pass
    with guided(pipe, CFG(5)):  # and it left no trace
        pass


def test_what_is_not_supported_is_said():
    pipe = tiny.sd("ddim")

    class Other:
        scheduler = pipe.scheduler

    with (
        pytest.raises(ValueError, match="Other; allowed is a Diffusers pipeline"),
        guided(Other(), CFG(5)),
    ):
        pass
    for wrong in (3, "cfg", [], [CFG(3), 4], CFG):
        with pytest.raises(ValueError, match="allowed is a Guider"), guided(pipe, wrong):
            pass
    with (
        guided(pipe, [CFG(3)] * 3, quiet=True),
        pytest.raises(ValueError, match="3 for a batch of 2"),
    ):
        tiny.run(pipe)
    with guided(pipe, CFG(3), quiet=True) as run:
        with pytest.raises(RuntimeError, match="not been called"):
            _ = run.nfe
        pipe.scheduler = tiny.scheduler("euler")
        with pytest.raises(
            RuntimeError, match="DDIMScheduler of StableDiffusionPipeline was replaced"
        ):
            tiny.run(pipe)


def test_a_subclass_of_a_supported_pipeline_is_supported():
    pipe = tiny.sd("ddim")
    pipe.__class__ = type("Mine", (type(pipe),), {})
    assert attached(pipe, CFG(5))[1].nfe == 12


def test_distilled_guidance_is_told_apart():
    pipe = tiny.sd("ddim")
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    pipe.unet.time_embedding.cond_proj = torch.nn.Linear(8, 8, bias=False)
    with guided(pipe, CFG(5), quiet=True), pytest.raises(ValueError, match="distilled"):
        tiny.run(pipe, guidance_scale=5)


@pytest.mark.parametrize("guidance_scale", [1, 7.5])
def test_a_weak_model_guides_with_the_same_prompt_and_needs_no_negative_branch(guidance_scale):
    pipe, weak = tiny.sd("ddim", "v_prediction"), tiny.sd("ddim").unet
    for parameter in weak.parameters():
        parameter.data.mul_(0.9)
    rows = {"main": 0, "weak": 0}
    for name, module in (("main", pipe.unet), ("weak", weak)):

        def count(module, args, name=name):
            rows[name] += len(args[0])

        module.register_forward_pre_hook(count)
    guider = CFG(Interval(2.5, low=0.5, high=6), reference=WeakModel(weak))
    ours, run = attached(pipe, guider, guidance_scale=guidance_scale)
    inside = sum(record.scales == [(2.5,)] * 2 for record in run.records)
    assert 0 < inside < 6
    assert rows == {"main": 12, "weak": 2 * inside}
    assert run.nfe == 6 + inside

    def both(original, network, x, t, **kwargs):
        sigma = read_level(pipe.scheduler, t).level.edm
        (strong,), (less,) = original(network, x, t, **kwargs), weak(x, t, **kwargs)
        return (strong + 1.5 * (strong - less) * (0.5 < sigma <= 6),)

    swap(pipe.unet, {"__call__": both})
    by_hand = tiny.run(pipe, guidance_scale=1)
    restore(pipe.unet)
    assert error(ours, by_hand) < 1e-5


def test_a_weak_model_of_another_parameterisation():
    """The same network, once as v and once rewritten as epsilon, is no guidance at all."""
    pipe = tiny.sd("ddim", "v_prediction")

    class AsEpsilon(torch.nn.Module):
        def forward(self, x, t, **kwargs):
            level = read_level(pipe.scheduler, t).level
            (v,) = type(unet).forward(unet, x, t, **kwargs)
            return (level.alpha * v + level.std * x,)

    unet = pipe.unet
    same = CFG(5, reference=WeakModel(AsEpsilon(), "epsilon"))
    other = CFG(5, reference=WeakModel(AsEpsilon()))
    plain = tiny.run(pipe, guidance_scale=1)
    assert error(attached(pipe, same)[0], plain) < 1e-4
    assert error(attached(pipe, other)[0], plain) > 0.1


def test_a_weak_model_is_a_network_or_the_name_of_one():
    with pytest.raises(ValueError, match="model is 7"):
        WeakModel(7)
    named = CFG(2, reference=WeakModel("emoji-weak"))
    assert Guider.from_dict(named.to_dict()) == named
    pipe = tiny.sd()
    with (
        guided(pipe, CFG(2, reference=WeakModel("nowhere")), quiet=True),
        pytest.raises(ValueError, match=r"model is 'nowhere'; allowed is emoji-weak, a folder"),
    ):
        tiny.run(pipe)
    with pytest.raises(ValueError, match="not stored as JSON"):
        CFG(2, reference=WeakModel(torch.nn.Linear(1, 1))).to_dict()


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_weak_model_of_another_type_of_numbers(kind, dtype):
    """It is asked in its own, and stays as it is."""
    pipe, weak = getattr(tiny, kind)(), getattr(tiny, kind)().unet
    for parameter in weak.parameters():
        parameter.data.mul_(0.9)
    same, _ = attached(pipe, CFG(3, reference=WeakModel(weak)))
    weak.to(dtype)
    ours, _ = attached(pipe, CFG(3, reference=WeakModel(weak)))
    assert weak.dtype == dtype
    assert ours.dtype == same.dtype
    assert error(ours, same) < (1e-4 if dtype == torch.float64 else 0.05)
    back, _ = attached(pipe.to(dtype), CFG(3, reference=WeakModel(weak.float())))
    assert back.dtype == dtype
    assert error(back, same) < (1e-4 if dtype == torch.float64 else 0.3)


def test_a_weak_model_that_does_not_fit():
    pipe = tiny.sd("ddim")
    wide = tiny.sdxl().unet  # another width of the prompt, and further arguments

    class Other(torch.nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.shape = shape

        def forward(self, x, t, **kwargs):
            return (x.new_zeros(self.shape),)

    for weak, words in (
        (wide, r"UNet2DConditionModel on cpu that cannot be called as the pipeline's UNet2D"),
        (torch.nn.Linear(8, 8), r"Linear on cpu .*unexpected keyword argument"),
        (Other((2, 3, 8, 8)), r"Other answers with the shape \(2, 3, 8, 8\); allowed is .*4, 8, 8"),
        (Other((2, 4, 4, 4)), r"Other answers with the shape \(2, 4, 4, 4\)"),
        (tiny.sd("ddim").unet.to("meta"), "on meta that cannot be called"),
        (pipe.unet, "is the UNet2DConditionModel of a pipeline that is guided"),
    ):
        guider = CFG(3, reference=WeakModel(weak))
        with guided(pipe, guider, quiet=True), pytest.raises(ValueError, match=words) as caught:
            tiny.run(pipe)
        assert "\n" not in str(caught.value)


STOCHASTIC = {
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "euler-a": (EulerAncestralDiscreteScheduler, {"steps_offset": 1}),
    "sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "steps_offset": 1}),
    "ddim eta 1": (DDIMScheduler, {"clip_sample": False, "steps_offset": 1}),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_generators_and_eta_reach_the_scheduler(name):
    pipe = tiny.sd()
    kind, options = STOCHASTIC[name]
    pipe.scheduler = kind(**tiny.BETAS, **options)

    def extra():
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        return {"generator": generators, "eta": 1.0 if name == "ddim eta 1" else 0.0}

    own = tiny.run(pipe, guidance_scale=7.5, **extra())
    ours, _ = attached(pipe, CFG(7.5), **extra())
    assert error(ours, own) < 1e-5
    assert torch.equal(ours, attached(pipe, CFG(7.5), **extra())[0])


@pytest.mark.parametrize(
    "options", [{"timesteps": [900, 500, 100]}, {"sigmas": [9.0, 3.0, 0.5]}], ids=str
)
def test_custom_timesteps_and_sigmas(options):
    pipe = tiny.sd("euler")
    own = tiny.run(pipe, guidance_scale=7.5, **options)
    ours, run = attached(pipe, CFG(7.5), **options)
    assert error(ours, own) < 1e-5
    assert len(run.last.steps) == len(run.records) == len(pipe.scheduler.timesteps)


def test_a_run_that_ends_early_is_planned_as_such():
    pipe = tiny.sdxl()
    _, run = attached(pipe, CFG(Linear(1, 9)), steps=8, denoising_end=0.5)
    assert len(run.records) == len(run.last.steps) < 8
    assert run.records[-1].scales[0] == (9,)


def test_another_pipeline_with_the_same_parts_is_not_guided_by_accident():
    pipe = tiny.sd("ddim")
    other = type(pipe)(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    with guided(pipe, CFG(5), quiet=True) as run:
        with pytest.raises(RuntimeError, match="called from elsewhere"):
            tiny.run(other)
        with pytest.raises(RuntimeError, match="shares its parts"), guided(other, CFG(3)):
            pass
        tiny.run(pipe)
    assert len(run.calls) == 1
    tiny.run(other)


def test_parts_that_are_replaced_meanwhile_are_an_error():
    pipe = tiny.sd("ddim")
    with guided(pipe, CFG(5), quiet=True):
        pipe.unet = tiny.sd("ddim").unet
        with pytest.raises(RuntimeError, match="was replaced inside"):
            tiny.run(pipe)


def test_a_negative_branch_switched_off_in_mid_run_is_an_error():
    pipe = tiny.sd("ddim")

    def cut(pipe, i, t, values):
        pipe._guidance_scale = 0.0
        return {"prompt_embeds": values["prompt_embeds"].chunk(2)[1]}

    with guided(pipe, CFG(5), quiet=True), pytest.raises(RuntimeError, match="mid-run"):
        tiny.run(
            pipe, callback_on_step_end=cut, callback_on_step_end_tensor_inputs=["prompt_embeds"]
        )


def test_copies_made_meanwhile_are_plain():
    pipe = tiny.sd("ddim")
    with guided(pipe, CFG(5), quiet=True):
        twin = copy.deepcopy(pipe)
        stored = pickle.loads(pickle.dumps(pipe.unet))
        fresh = type(pipe.scheduler).from_config(pipe.scheduler.config)
    plain = (type(pipe.unet), type(pipe.scheduler))
    assert (type(twin.unet), type(twin.scheduler)) == plain
    assert (type(stored), type(fresh)) == plain
    assert error(attached(twin, CFG(5))[0], attached(pipe, CFG(5))[0]) < 1e-6


def test_a_call_that_fails_is_not_mistaken_for_the_one_before():
    pipe = tiny.sd("ddim")
    with guided(pipe, CFG(5), quiet=True) as run:
        tiny.run(pipe)
        with pytest.raises(ValueError, match="above 1"):
            tiny.run(pipe, guidance_scale=1)
        assert run.nfe == 0


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_denoiser(whole):
    pipe = tiny.sd("ddim")
    plain, _ = attached(pipe, CFG(Interval(5, low=0.5)))
    if whole:
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    else:
        pipe.unet.compile(backend="eager")
    compiled, run = attached(pipe, CFG(Interval(5, low=0.5)))
    assert error(compiled, plain) < 1e-6
    assert run.nfe < 12


def test_a_run_prints_as_a_table():
    pipe = tiny.sd("ddim")
    with guided(pipe, CFG(Interval(5, low=0.5)), quiet=True) as run:
        assert "not called yet" in str(run)
        tiny.run(pipe)
    lines = str(run).splitlines()
    assert len(lines) == 2 + 6 + 1
    assert lines[2].split()[0] == "0"
    assert "2 for 2" in lines[-2]
    assert "cosines=True" in lines[-1]
    with guided(pipe, CFG(Interval(5, low=0.5)), quiet=True, cosines=True) as run:
        tiny.run(pipe)
    assert [len(str(run).splitlines()), "cosines=True" in str(run)] == [2 + 6, False]
