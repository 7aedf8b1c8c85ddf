"""What ``guiders profile`` measures."""

import copy
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
    Interval,
    Profile,
    Stale,
    WeakModel,
    guided,
)
from guiders import profile as measured
from guiders.evals.calibration.effects import runs
from guiders.guidance.calibration.profile import LEVELS, NEGATIVE_KEY
from guiders.pipelines.generation.generate import sample
from guiders.pipelines.generation.settings import Settings
from profiled import PROMPTS, measure


@pytest.fixture(scope="module")
def sd():
    return tiny.sd("ddim")


@pytest.fixture(scope="module")
def known(sd):
    return measure(sd)


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
        ({"guiders": [CFG(3, reference=Confusion(["a", "b"], "c"))]}, "guiders have CFG.*one pred"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected .*, got 0"),
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

    with pytest.raises(
        ValueError, match="model: expected a pipeline that draws pictures, got a Sound"
    ):
        sample(Sound(**sd.components), [Settings("x", None)])
