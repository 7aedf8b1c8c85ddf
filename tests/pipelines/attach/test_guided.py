"""A guider on stock pipelines, against the pipelines' own guidance."""

import copy
import math

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
    Interval,
    Linear,
    MagnitudeAware,
    Rescale,
    guided,
)
from guiders.guidance import NEGATIVE, POSITIVE, Denoiser, Prediction, Query
from guiders.pipelines.patch.class_swap import restore, swap
from guiders.samplers import read_level
from known import step
from products import product
from tiny import attached

KINDS = ("epsilon", "v_prediction")
EVALUATIONS = {"heun": 11, "pndm": 7}  # network calls in six steps, where not six
QUICK = (("ddim", "epsilon"), ("heun", "v_prediction"))  # one evaluation a step, and two

every_case = pytest.mark.parametrize(
    ("name", "kind"), product(tiny.SCHEDULERS, KINDS, quick=lambda *case: case in QUICK)
)


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


def test_rescale_is_the_pipelines_own():
    pipe = tiny.sd("ddim", "v_prediction")
    own = tiny.run(pipe, guidance_scale=7.5, guidance_rescale=0.7)
    ours, _ = attached(pipe, CFG(7.5) | Rescale(0.7))
    assert error(ours, own) < 1e-5


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
