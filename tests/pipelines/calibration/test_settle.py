"""What a profile makes of a guider on a pipeline."""

import copy
import sys
import warnings
from dataclasses import replace

import pytest
import tiny
from guiders import (
    APG,
    CFG,
    Adaptive,
    Guider,
    Interval,
    Match,
    guided,
    models,
)
from guiders import profile as measured
from guiders.guidance import intents
from guiders.pipelines.calibration.settle import foreseen, settle
from guiders.pipelines.generation.generate import sample
from guiders.pipelines.generation.settings import Settings
from profiled import PROMPTS, measure


@pytest.fixture(scope="module")
def sd():
    return tiny.sd("ddim")


@pytest.fixture(scope="module")
def known(sd):
    return measure(sd)


@pytest.fixture(scope="module")
def sdxl():
    return tiny.sdxl("euler")


GUIDER = APG(Adaptive(Match(4), save=0.1), momentum=0, rescale="p75") + CFG(Interval(2, keep=0.7))


def test_the_same_json_keeps_its_promise_on_another_model(sdxl, tmp_path):
    options = {"num_inference_steps": 10, "width": 32, "height": 32}
    known = measured(sdxl, PROMPTS, (4,), batch_size=8, quiet=True, **options)
    assert known.facts["latents"] == [4, 16, 16]
    GUIDER.save(tmp_path / "g.json")
    guider = Guider.load(tmp_path / "g.json")
    emoji = models.load("emoji")
    here = settle(emoji, Settings("red heart", None, num_inference_steps=20), guider)
    there = settle(sdxl, Settings("red", None, **options), guider, known)
    assert not intents([here, there])
    for one, other in zip(here.terms, there.terms, strict=True):
        assert one != other
    assert here.terms[0].rescale_rms != there.terms[0].rescale_rms

    jobs = [Settings(f"b {n}", None, seed=500 + n, **options) for n in range(24)]
    with guided(sdxl, CFG(Adaptive(4, save=0.2)), quiet=True, profile=known) as run:
        sample(sdxl, jobs, output_type="latent")
    assert 1 - run.nfe / 20 == pytest.approx(0.2, abs=0.06)
    with guided(sdxl, APG(Match(4), momentum=0), quiet=True, diagnose=True, profile=known) as run:
        sample(sdxl, jobs, output_type="latent")
    scales = [r.diagnosis.effective_scale for r in run.records]
    assert sum(map(sum, scales)) / 240 == pytest.approx(4, rel=0.1)  # 16 prompts


def test_the_plan_has_the_numbers(sd, known, capsys):
    guider = CFG(Adaptive(4, save=0.2))
    with guided(sd, guider, profile=known) as run:
        tiny.run(sd, steps=8)
    resolved = settle(sd, Settings("x", None, num_inference_steps=8), guider, known)
    assert run.guider == resolved
    assert run.last.latents == (4, 8, 8)
    threshold = resolved.when.threshold
    assert f"reaches {threshold:.10g}; 8 steps" in capsys.readouterr().err
    again = copy.copy(resolved)
    with guided(sd, [again, guider], quiet=True, profile=known) as run:
        tiny.run(sd, steps=8)
    assert run.guider == [resolved, resolved]


def test_numbers_are_looked_up_once_for_equal_runs(sd, known, monkeypatch):
    module, calls = sys.modules["guiders.pipelines.attach.attachment"], []
    resolve = module.resolve
    monkeypatch.setattr(module, "resolve", lambda *a: calls.append(a) or resolve(*a))
    with guided(sd, CFG(Interval(4, keep=0.7)), quiet=True, profile=known) as run:
        tiny.run(sd, steps=8)
        first = run.guider
        tiny.run(sd, steps=8)
    assert len(calls) == 1
    assert run.guider is first


def test_every_call_has_its_own_numbers(sd, known):
    with guided(sd, CFG(Interval(4, keep=0.7)), quiet=True, profile=known) as run:
        tiny.run(sd, steps=8)
        with pytest.raises(ValueError, match="noise levels are 7 evaluations"):
            tiny.run(sd, steps=7)
        tiny.run(sd, steps=8)
    assert not intents(run.guider)


def test_without_a_profile_the_command_is_named(sd):
    with (
        guided(sd, APG(Match(4)), quiet=True),
        pytest.raises(ValueError, match=r"Match to CFG scale 4, .*guiders profile --model \S+ "),
    ):
        tiny.run(sd, steps=8)
    with pytest.raises(ValueError, match="profile is 3"), guided(sd, CFG(3), profile=3):
        pass
    with pytest.raises(ValueError, match=r"no\.json"), guided(sd, CFG(3), profile="no.json"):
        pass


def test_a_profile_of_another_size_is_refused(sd, known):
    with (
        guided(sd, APG(Match(4)), quiet=True, profile=known),
        pytest.raises(ValueError, match=r"latents are \(4, 4, 4\).*\(4, 8, 8\)"),
    ):
        sd("x", num_inference_steps=8, width=8, height=8, output_type="latent")


def test_looking_ahead_evaluates_nothing(sd):
    count = 0

    def hook(*_):
        nonlocal count
        count += 1

    handle = sd.unet.register_forward_hook(hook)
    job = Settings("x", None, num_inference_steps=8)
    shown = sd._progress_bar_config
    steps, latents = foreseen(sd, job)
    handle.remove()
    assert count == 0
    assert sd._progress_bar_config is shown
    with guided(sd, CFG(3), quiet=True) as run:
        sample(sd, [job])
    assert steps == run.last.steps
    assert latents == (4, 8, 8)


def test_a_profile_of_something_else_is_said(sd, known):
    other = replace(known, facts=known.facts | {"model": "another"})
    negative = {"negative_prompt": ["ugly"] * 2}
    for profile, guider, options, words in (
        (other, CFG(Interval(4, keep=0.7)), {}, "the model of the run is .*'another'"),
        (known, CFG(Interval(4, keep=0.7)), negative, "the negative_prompt of the run is 'ugly'"),
        (known, CFG(3), {}, "profile has no effect: CFG scale 3 leaves"),
    ):
        with (
            pytest.warns(UserWarning, match=words),
            guided(sd, guider, quiet=True, profile=profile),
        ):
            tiny.run(sd, steps=8, **options)
    job = Settings("x", None, num_inference_steps=8, negative_prompt="ugly")
    with pytest.warns(UserWarning, match="the negative_prompt of the run is 'ugly'"):
        settle(sd, job, CFG(Interval(4, keep=0.7)), known)
    fast = replace(job, negative_prompt="", skip="sada")
    with pytest.warns(UserWarning, match="the skip of the run is 'sada'"):
        settle(sd, fast, CFG(Interval(4, keep=0.7)), known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle(sd, replace(job, negative_prompt=""), CFG(Interval(4, keep=0.7)), known)
