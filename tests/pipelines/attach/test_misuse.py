"""What is easily done wrong around `with guided(...)`, and what is then said."""

import threading
import warnings

import pytest
import tiny
import torch
from guiders import APG, CFG, Adaptive, Interval, StepAG, guided


def error_of(task):
    """What a function raises in a thread of its own."""
    found = []

    def work():
        try:
            task()
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0] if found else None


def test_another_thread_does_not_get_the_guider():
    pipe = tiny.sd("ddim")
    sharing = type(pipe)(**pipe.components, requires_safety_checker=False)
    sharing.set_progress_bar_config(disable=True)
    own = tiny.run(pipe, guidance_scale=5)
    with guided(pipe, CFG(1), quiet=True) as run:
        for other, name in ((pipe, "StableDiffusionPipeline"), (sharing, "DDIMScheduler")):
            error = error_of(lambda other=other: tiny.run(other))
            assert isinstance(error, RuntimeError)
            assert f"this {name} was called from another thread" in str(error)
        assert not run.calls
        tiny.run(pipe)
    assert run.nfe == 6
    assert error_of(lambda: tiny.run(pipe)) is None  # afterwards it belongs to nobody
    assert torch.equal(tiny.run(pipe, guidance_scale=5), own)


def test_a_with_in_a_thread_of_its_own():
    pipe, found = tiny.sd("ddim"), []

    def work():
        with guided(pipe, CFG(5), quiet=True) as run:
            tiny.run(pipe)
        found.append(run.nfe)

    assert error_of(work) is None
    assert found == [12]


def test_a_call_within_its_own_call():
    pipe = tiny.sd("ddim")

    def again(pipe, i, t, values):
        tiny.run(pipe)

    with guided(pipe, CFG(5), quiet=True) as run:
        with pytest.raises(RuntimeError, match="called within its own call, from a callback"):
            tiny.run(pipe, callback_on_step_end=again)
        tiny.run(pipe)
    assert run.nfe == 12


def test_a_scheduler_whose_step_was_set_on_the_object():
    pipe = tiny.sd("ddim")
    own = pipe.scheduler.step
    pipe.scheduler.step = lambda *args, **kwargs: own(*args, **kwargs)
    with (
        pytest.raises(ValueError, match=r"DDIMScheduler .* has a step of its own"),
        guided(pipe, CFG(5)),
    ):
        pass
    del pipe.scheduler.step
    with guided(pipe, CFG(5), quiet=True):  # and nothing was left behind
        tiny.run(pipe)


def test_guided_without_with():
    pipe = tiny.sd("ddim")
    with pytest.warns(UserWarning, match="was never entered, so that nothing was guided"):
        guided(pipe, CFG(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with guided(pipe, CFG(5)):
            pass
        with pytest.raises(ValueError, match="expected a Guider"):
            guided(pipe, 5)


def test_the_guider_in_the_place_of_the_pipeline():
    with pytest.raises(ValueError, match="the pipeline comes first") as caught:
        guided(APG(8), tiny.sd("ddim"))
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("when", [Interval(5, 900), StepAG(5, 0), Adaptive(Interval(5, 900))])
def test_a_guider_that_never_acts_is_warned_of_once(when):
    pipe = tiny.sd("ddim")
    with guided(pipe, CFG(when), quiet=True):
        with pytest.warns(UserWarning, match="guided no image at any step"):
            tiny.run(pipe)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tiny.run(pipe)


def test_nothing_is_said_of_guidance_that_was_switched_off_or_stopped():
    pipe = tiny.sd("ddim")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for guider in (CFG(1), CFG([1, 1]), CFG(Interval(1, 0.5)), CFG(Adaptive(5, threshold=-1))):
            with guided(pipe, guider, quiet=True):
                tiny.run(pipe)

        def stop(pipe, i, t, values):
            pipe._interrupt = True
            return {}

        with guided(pipe, CFG(Interval(5, high=0.2)), quiet=True):
            tiny.run(pipe, callback_on_step_end=stop)
