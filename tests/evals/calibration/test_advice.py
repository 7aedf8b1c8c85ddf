"""What a profile says, in words and as a picture."""

import json
import math
from dataclasses import replace

import pytest
import tiny
import torch
from guiders import (
    APG,
    CFG,
    Adaptive,
    Match,
    Profile,
    models,
    resolve,
)
from guiders import profile as measured
from guiders.evals.calibration.advice import advise
from guiders.evals.calibration.chart import picture
from guiders.guidance import intents
from guiders.pipelines.calibration.settle import foreseen, settle
from guiders.pipelines.generation.settings import Settings
from profiled import PROMPTS, measure


@pytest.fixture(scope="module")
def sd():
    return tiny.sd("ddim")


@pytest.fixture(scope="module")
def known(sd):
    return measure(sd)


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
