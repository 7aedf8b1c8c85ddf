"""One guider on every pipeline of Diffusers that the library names, against their own guidance."""

import math

import pytest
import torch
import zoo
from errors import error
from guiders import APG, CFG, Adaptive, Interval, KeepNorm, guided
from guiders.pipelines.attach.layouts import form_of
from guiders.pipelines.patch.call_arguments import Inputs
from guiders.pipelines.patch.class_swap import is_swapped, restore, swap
from guiders.pipelines.patch.parts import parts_of

ONE_PASS = [
    "sd", "sd-img2img", "sd-inpaint", "sd-inpaint-4", "sd-controlnet", "sdxl", "sdxl-img2img",
    "sdxl-inpaint", "sdxl-controlnet", "sd3", "sd3-img2img", "pixart-sigma", "sana", "dit",
    "hunyuan-dit", "auraflow", "kandinsky22", "kandinsky3", "ltx", "cogvideox", "stable-audio",
]  # fmt: skip
TWO_PASSES = ["flux", "qwen-image", "wan", "wan22", "lumina2", "cogview4"]
NAMES = ONE_PASS + TWO_PASSES
OWN = {name: CFG(5) for name in NAMES}  # what the pipeline does by itself at scale 5
OWN |= {"qwen-image": CFG(5) | KeepNorm(), "lumina2": CFG(5) | KeepNorm()}
OWN |= {"kandinsky3": CFG(6)}  # (s + 1) c - s u

QUICK = ("sd", "flux")  # one pass, and two


def named(names):
    quick = pytest.mark.quick
    cases = [pytest.param(name, marks=[quick] if name in QUICK else []) for name in names]
    return pytest.mark.parametrize("name", cases)


every_pipeline = named(NAMES)
pipes = {}


def pipe_of(name, dtype=torch.float32):
    if (name, dtype) not in pipes:
        pipes[name, dtype] = zoo.build(name, dtype)
    return pipes[name, dtype]


def attached(name, guider, pipe=None, **options):
    pipe = pipe or pipe_of(name)
    with guided(pipe, guider, quiet=True) as run:
        return zoo.run(name, pipe, **options), run


def denoisers(pipe):
    return [part for key, part in parts_of(pipe).items() if key not in ("scheduler", "controlnet")]


@pytest.mark.support("CFG is its own")
@every_pipeline
def test_a_whole_run_of_cfg_is_the_pipelines_own(name):
    pipe = pipe_of(name)
    own = zoo.run(name, pipe)
    assert error(zoo.run(name, pipe, scale=1), own) > 0.01  # guidance does something here
    ours, run = attached(name, OWN[name], scale=3)
    assert error(ours, own) < 1e-5
    assert run.nfe == 2 * len(run.records) == 2 * len(run.last.steps)


@pytest.mark.support("scale 1 is unguided")
@every_pipeline
def test_scale_one_is_the_pipelines_own_unguided_output(name):
    own = zoo.run(name, pipe_of(name), scale=1)
    for scale in (5, 1):  # with the negative branch there and not
        ours, run = attached(name, CFG(1), scale=scale)
        assert error(ours, own) < 1e-6
        assert run.nfe == len(run.records)


@pytest.mark.support("one forward, bit-exact")
@named(n for n in ONE_PASS if n != "kandinsky3")
def test_two_equal_halves_are_bit_for_bit_the_half(name):
    """The pipeline's own expression, returned in both halves, must come out of it unchanged."""
    pipe = zoo.build(name)
    own, form = zoo.run(name, pipe), form_of(pipe)

    def call(original, network, *args, **kwargs):
        output = original(network, *args, **kwargs)
        first, second = output[0].chunk(2)
        u, c = (second, first) if form.positive_first else (first, second)
        g = torch.cat([u + 5.0 * (c - u)] * 2)
        if g.shape[1] > Inputs(args, kwargs).x.shape[1]:  # learned variance is the positive one's
            channels = g.shape[1] // 2
            g[:, channels:] = torch.cat([c, c])[:, channels:]
        return (g,) if isinstance(output, tuple) else type(output)(g)

    for network in denoisers(pipe):
        swap(network, {"__call__": call})
    ours = zoo.run(name, pipe)
    for network in denoisers(pipe):
        restore(network)
    assert torch.equal(ours, own)


@every_pipeline
def test_apg_and_its_neutral_form(name):
    cfg, _ = attached(name, CFG(5))
    neutral, _ = attached(name, APG(5, eta=1, rescale=0, momentum=0))
    full, _ = attached(name, APG(5))
    assert error(neutral, cfg) < 1e-5
    assert error(full, cfg) > 1e-4


@pytest.mark.support("evaluations skipped")
@every_pipeline
def test_rows_are_really_skipped(name):
    """Counted by a hook on the network, not by our own counter."""
    pipe, rows = pipe_of(name), []
    handles = [
        network.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(Inputs(args, kwargs).rows), with_kwargs=True
        )
        for network in denoisers(pipe)
    ]
    try:
        for guider, saves in ((CFG(5), False), (CFG(Adaptive(5, threshold=-1)), True)):
            rows.clear()
            _, run = attached(name, guider)
            assert sum(rows) == sum(run.last.evaluations) == run.nfe * 2
            assert (run.nfe < 2 * len(run.records)) is saves
            if name in ONE_PASS:
                assert len(rows) == len(run.records)  # one forward a step
            if saves:  # the first step is guided, and no other
                assert [r.skipped for r in run.records] == [[], *[[0, 1]] * (len(run.records) - 1)]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.support("batch = loop")
@every_pipeline
def test_a_batch_is_two_of_one(name):
    guider = APG(Interval(5, low=0, high=1e9))
    together, _ = attached(name, guider)
    for row in (0, 1):
        alone, _ = attached(name, guider, rows=(row,))
        assert error(alone[0], together[row]) < 1e-4


@pytest.mark.support("scale per image")
@every_pipeline
def test_a_scale_for_each_image(name):
    mixed, run = attached(name, CFG([1, 5]))
    assert run.last.evaluations == [len(run.records), 2 * len(run.records)]
    assert error(mixed[0], attached(name, CFG(1), rows=(0,))[0][0]) < 1e-4
    assert error(mixed[1], attached(name, CFG(5), rows=(1,))[0][0]) < 1e-4


@pytest.mark.support("restored")
@every_pipeline
def test_it_is_restored_and_a_second_run_is_the_first(name):
    pipe = pipe_of(name)
    before = zoo.run(name, pipe)
    with guided(pipe, APG(5), quiet=True) as run:
        first, second = zoo.run(name, pipe), zoo.run(name, pipe)
    assert torch.equal(first, second)
    assert run.calls[0].evaluations == run.calls[1].evaluations
    assert not any(map(is_swapped, (pipe, *parts_of(pipe).values())))
    assert torch.equal(zoo.run(name, pipe), before)


@pytest.mark.support("bfloat16")
@named(n for n in NAMES if n != "kandinsky3")  # refused there
def test_half_precision_is_no_further_from_the_truth(name):
    """A whole run in bfloat16, ours and the pipeline's own, against float64 with the same weights.

    Rounding makes runs part company in either direction, on each processor in its own, hence
    the margin and the four images.
    """
    rows, low = (0, 1, 2, 3), pipe_of(name, torch.bfloat16)
    exact = zoo.build(name)
    exact.to(torch.bfloat16).to(torch.float64)
    truth, own = zoo.run(name, exact, rows), zoo.run(name, low, rows)
    ours, _ = attached(name, OWN[name], low, rows=rows)
    assert math.isfinite(error(ours, truth))
    assert error(ours, truth) <= 1.3 * error(own, truth) + 1e-3
