"""What stands between a pipeline and its guider: attaching, what is refused, and the way back."""

import copy
import pickle

import pytest
import tiny
import torch
from errors import error
from guiders import APG, CFG, Interval, guided
from tiny import attached


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
        with pytest.raises(ValueError, match="expected a Guider"), guided(pipe, wrong):
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
