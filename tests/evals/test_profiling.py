"""What ``guiders profile`` measures, and what is made of it on other models."""

import copy
import json
import math
import sys
import warnings
from dataclasses import replace

import pytest
import tiny
import torch
import zoo
from guiders import (
    APG,
    CFG,
    Adaptive,
    Confusion,
    Guider,
    Interval,
    Match,
    Profile,
    Stale,
    WeakModel,
    guided,
    models,
    resolve,
)
from guiders import profile as measured
from guiders.evals.calibration.advice import advise
from guiders.evals.calibration.chart import picture
from guiders.evals.calibration.effects import runs
from guiders.guidance import intents
from guiders.guidance.calibration.profile import LEVELS, NEGATIVE_KEY
from guiders.pipelines.calibration.settle import foreseen, settle
from guiders.pipelines.generation.generate import sample
from guiders.pipelines.generation.settings import Settings

PROMPTS = [f"{word} {number}" for word in ("red", "cat", "a b c", "heart") for number in range(4)]


@pytest.fixture(scope="module")
def sd():
    return tiny.sd("ddim")


@pytest.fixture(scope="module")
def known(sd):
    return measured(sd, PROMPTS, (3, 6), num_inference_steps=8, batch_size=8, quiet=True)


def test_what_it_has(known):
    assert known.scales == [3, 6]
    assert known.facts["latents"] == [4, 8, 8]
    assert known.facts["pipeline"] == "StableDiffusionPipeline"
    kinds = [track.guider["type"] for track in known.tracks]
    assert kinds.count("CFG") == 2
    assert 1 <= kinds.count("APG") <= 4  # where it came near the CFG
    for track in known.tracks:
        strength = track.effective - 1
        assert any(0.6 < strength / (scale - 1) < 1.6 for scale in known.scales)
    for track in known.tracks:
        assert track.references == [NEGATIVE_KEY]
        gap = track.gaps[0]
        assert gap.size.shape == (8, len(LEVELS))
        assert (gap.size.diff(dim=1) >= 0).all()
        for rows in gap.disagreement.values():
            assert (rows.diff(dim=1) >= 0).all()  # quantiles
            assert (rows.diff(dim=0) <= 1e-12).all()  # of the largest cosine so far
        torch.testing.assert_close(track.products, track.products.T, atol=1e-6, rtol=0)
    assert known.tracks[0].effective == pytest.approx(3)
    for effect in known.effects:
        assert effect.edges == [0, 2, 4, 6, 8]
        assert (effect.before[0], effect.before[-1]) == (0, 1)
        assert (effect.after[0], effect.after[-1]) == (1, 0)
        assert effect.before[1] == effect.alone[0]
        assert effect.after[-2] == effect.alone[-1]
        assert all(len(values) == 4 for values in effect.x0.values())


def test_it_is_what_the_predictions_say(sd):
    """One prompt many times over: every quantile is its own."""
    prompts = ["red 1"] * 8
    found = measured(sd, prompts, (4,), num_inference_steps=5, batch_size=8, quiet=True)
    job = Settings("red 1", None, num_inference_steps=5)
    with guided(sd, CFG(4), quiet=True, diagnose=True) as run:
        sample(sd, [replace(job, seed=seed) for seed in range(8)])
    gap = found.tracks[0].gaps[0]
    for t, record in enumerate(run.records):
        said = record.diagnosis
        assert gap.cosine[t] == pytest.approx(sum(said.cosine) / 8, abs=1e-5)
        assert gap.cosine_eps[t] == pytest.approx(sum(said.cosine_eps) / 8, abs=1e-5)
        assert gap.parallel[t] == pytest.approx(sum(said.parallel) / 8, abs=1e-5)
        assert gap.norm_ratio[t] == pytest.approx(sum(said.norm_ratio) / 8, rel=1e-4)
        assert gap.size[t, -1] == pytest.approx(max(said.gap), rel=1e-4)
        assert gap.size[t, 0] == pytest.approx(min(said.gap), rel=1e-4)


@pytest.mark.parametrize("count", [8, 16])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_it_costs_at_most_two_plain_runs(sd, count, steps):
    found = measured(sd, PROMPTS[:count], (4,), num_inference_steps=steps, batch_size=8, quiet=True)
    assert 1 < found.cost <= 2


@pytest.mark.parametrize("groups", range(1, 8))
def test_the_effect_costs_what_is_foreseen(groups):
    """Counted: unguided, without one group, without several before and after."""
    out = [groups, *[1] * groups, *range(2, groups), *range(2, groups)]
    assert runs(groups) == pytest.approx(sum(1 - left / groups / 2 for left in out))


def test_it_is_added_to(sd, known, tmp_path):
    first = measured(sd, PROMPTS, (3,), num_inference_steps=8, batch_size=8, quiet=True)
    weak = copy.deepcopy(sd.unet)
    both = measured(
        sd, PROMPTS, (3, 6), [CFG(2, reference=WeakModel(weak))], num_inference_steps=8,
        batch_size=8, quiet=True, before=first,
    )  # fmt: skip
    assert both.scales == [3, 6]
    assert both.tracks[: len(first.tracks)] == first.tracks
    own, other = (gap.size.max() for gap in both.tracks[-1].gaps)
    assert other < 1e-4 * own  # the weak model is no other; batches of other sizes round otherwise
    both.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json").scales == [3, 6]
    for change, words in (
        ({"num_inference_steps": 7}, "num_inference_steps is 7; allowed to add"),
        ({"seed": 1}, "seed is 1"),
    ):
        options = {"num_inference_steps": 8} | change
        with pytest.raises(ValueError, match=words):
            measured(sd, PROMPTS, (4,), batch_size=8, quiet=True, before=first, **options)


def test_bad_arguments(sd):
    for options, words in (
        ({"prompts": ["one"]}, "prompts are 1; allowed are at least 8"),
        ({"prompts": "a cat on a mat"}, "prompts are 1"),
        ({"scales": (1,)}, r"scales are \[1.0\]"),
        ({"scales": ()}, "scales are"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"guiders": [CFG(Adaptive(3))]}, "guiders have CFG"),
        ({"guiders": [APG(rescale="p90")]}, "guiders have APG"),
        ({"guiders": [CFG(3, reference=Stale())]}, "guiders have CFG.*one prediction"),
        ({"guiders": [CFG(3, reference=Confusion(["a", "b"]))]}, "guiders have CFG.*one pred"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"prompts": ["x"] * 8, "negative_prompt": "x"}, "prompts are all predicted as"),
    ):
        with pytest.raises(ValueError, match=words):
            measured(sd, **({"prompts": PROMPTS, "quiet": True} | options))


def test_heun_is_guided_for_whole_steps():
    """Its second evaluations are at the level of the next first ones."""
    pipe = tiny.sd("heun")
    found = measured(pipe, PROMPTS[:8], (4,), num_inference_steps=6, batch_size=8, quiet=True)
    for keep in (0.6, 0.8, 0.95):
        with guided(pipe, CFG(Interval(4, keep=keep)), quiet=True, profile=found) as run:
            tiny.run(pipe, steps=6)
        inside = [i for i, record in enumerate(run.records) if record.scales[0][0] != 1]
        assert found.effects[0].kept(inside[0], inside[-1]) >= keep


def test_a_pipeline_of_classes_that_answers_with_arrays():
    pipe = zoo.build("dit")
    pipe.labels = {}
    classes = [str(100 * n + 7) for n in range(8)]
    found = measured(pipe, classes, (4,), num_inference_steps=3, batch_size=8, quiet=True)
    assert len(found.effects[0].colour) > 1
    assert found.effects[0].total > 0


def test_what_draws_no_pictures(sd):
    class Sound(type(sd)):
        def __call__(self, *args, **kwargs):
            return object()

    with pytest.raises(ValueError, match="model is a Sound, which draws no pictures"):
        sample(Sound(**sd.components), [Settings("x", None)])


# One JSON, two models


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


# Attached


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
    fast = replace(job, negative_prompt="", accelerate="sada")
    with pytest.warns(UserWarning, match="the accelerate of the run is 'sada'"):
        settle(sd, fast, CFG(Interval(4, keep=0.7)), known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle(sd, replace(job, negative_prompt=""), CFG(Interval(4, keep=0.7)), known)


# What ships


def test_the_shipped_profiles_are_of_the_shipped_model():
    pipe = models.load("emoji")
    there = [Profile.load(path) for path in models.profiles("emoji")]
    assert [p.facts["num_inference_steps"] for p in there] == [15, 20, 30]
    for profile, path in zip(there, models.profiles("emoji"), strict=True):
        job = Settings("red heart", None, num_inference_steps=profile.facts["num_inference_steps"])
        steps, latents = foreseen(pipe, job)
        profile.check(steps, latents)
        assert profile.cost <= 2
        assert path.stat().st_size < 200_000
        guider = settle(pipe, job, APG(Adaptive(Match(CFG(4)), save=0.2), rescale="p90"))
        assert guider.when.scale.scale > 4


@pytest.mark.parametrize("steps", [15, 20, 30])
def test_advice_holds_for_what_it_says(steps):
    path = next(p for p in models.profiles("emoji") if p.stem.endswith(f"-{steps}"))
    profile = Profile.load(path)
    found = advise(profile)
    assert all(one.text for one in found)
    from guiders.pipelines.language.parse import parse_guider

    guiders = [one.guider for one in found if one.guider]
    assert len(guiders) > 5
    for text in guiders:
        assert not intents(resolve(parse_guider(text), profile))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_advice_of_few_steps(sd, steps):
    found = measured(sd, PROMPTS[:8], (4,), num_inference_steps=steps, batch_size=8, quiet=True)
    said = [one.text for one in advise(found)]
    assert len(said) > 6
    assert not [text for text in said if "nan" in text or "CFG -" in text]


def test_advice_of_a_model_whose_scale_is_not_quite_met(known):
    """As in half precision."""
    tracks = [replace(track, effective=track.effective - 0.01) for track in known.tracks]
    assert len(advise(replace(known, tracks=tracks))) == len(advise(known))


def test_the_share_along_the_image_is_of_the_energy(known):
    """Along it for some prompts and against it for others is not nothing."""
    gap = known.tracks[0].gaps[0]
    half = torch.full_like(gap.parallel, 0.5)
    gap = replace(gap, parallel=0 * half, spread=gap.spread | {"parallel": half})
    tracks = [replace(known.tracks[0], gaps=[gap]), *known.tracks[1:]]
    said = " ".join(one.text for one in advise(replace(known, tracks=tracks)))
    assert "25 % of the gap's energy lies along the clean image" in said


def test_the_picture_has_every_scale(known):
    drawn = picture(known)
    assert drawn.startswith("<svg")
    for words in ("CFG 3", "CFG 6", "Cosine of the noises", "Guidance kept up to here"):
        assert words in drawn
    assert "nan" not in drawn
    assert json.dumps(known.facts["num_inference_steps"]) in drawn
    assert math.isfinite(known.cost)
