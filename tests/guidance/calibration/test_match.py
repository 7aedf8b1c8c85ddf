"""How strong a guider is, and the scale that makes it as strong as another."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from guiders import (
    APG,
    CFG,
    TCFG,
    Adaptive,
    Cosine,
    Interval,
    Match,
    Rescale,
    StepAG,
    UniversalGuidance,
    WeakModel,
    resolve,
)
from guiders.guidance import effective_scale, intents
from guiders.guidance.calibration.profile import reference_key
from guiders.guidance.calibration.simulate import View
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import STEPS, predictions, profile, run, steps, track


@pytest.mark.parametrize(
    "guider",
    [
        CFG(5),
        APG(5),
        APG(9, eta=0.3, rescale=1.5, momentum=-0.75),
        APG(4, rescale=0, momentum=0.4),
        APG(4, rescale_rms=0.02, momentum=0),
        APG(Cosine(2, 9), eta=0.1),
        CFG(Interval(6, 0.5, 5)),
        CFG(StepAG(6, 0.4)),
    ],
)
def test_the_effective_scale_of_one_prompt_is_exact(guider):
    clean, gap = predictions()
    expected, _ = run(guider, clean, gap)
    assert effective_scale(guider, profile(track(clean, gap))) == pytest.approx(expected, rel=1e-9)


def test_second_stages_are_replayed_as_such():
    stages = [0, 1, 0, 1, 0, 1, 0]
    clean, gap = predictions()
    expected, _ = run(APG(5, momentum=-0.5), clean, gap, stages)
    known = profile(track(clean, gap), stages=stages)
    found = effective_scale(APG(5, momentum=-0.5), known, steps(stages))
    assert found == pytest.approx(expected, rel=1e-9)
    assert found != pytest.approx(run(APG(5, momentum=-0.5), clean, gap)[0], rel=1e-3)


def test_terms_add_up():
    known = profile(track(*predictions()))
    assert effective_scale(CFG(5) + CFG(3), known) == pytest.approx(7)


@settings(max_examples=25, deadline=None)
@given(st.floats(2.6, 4.7), st.floats(0, 1), st.floats(-0.8, 0.5), st.sampled_from([0, 0.3, 2, 9]))
def test_a_matched_guider_is_as_strong(scale, eta, momentum, rescale):
    clean, gap = predictions()
    known = profile(track(clean, gap))
    guider = resolve(APG(Match(CFG(scale)), eta=eta, momentum=momentum, rescale=rescale), known)
    assert not intents(guider)
    assert run(guider, clean, gap)[0] == pytest.approx(scale, rel=1e-3)  # four digits


def test_cfg_is_matched_by_its_own_number():
    known = profile(track(*predictions()))
    assert resolve(CFG(Match(3.5)), known) == CFG(3.5)
    assert resolve(CFG(Interval(Match(CFG(3.5)), 0, 5)), known) == CFG(Interval(3.5, 0, 5))


def test_a_track_of_the_method_itself_goes_first():
    clean, gap = predictions()
    other = clean, gap + 0.5 * clean  # more of it along D_c
    own = track(*other, scale=9, effective=4.0, kind="APG")
    guider = resolve(APG(Match(4)), profile(track(clean, gap), own))
    assert run(guider, *other)[0] == pytest.approx(4, rel=1e-3)
    assert run(guider, clean, gap)[0] != pytest.approx(4, rel=1e-2)


def test_between_two_scales_lies_between():
    clean, gap = predictions()
    ways = (clean, gap), (clean, gap + 0.3 * clean)
    known = profile(track(*ways[0], scale=2.0), track(*ways[1], scale=8.0))
    guider = APG(5, rescale=0, momentum=0)
    ends = [effective_scale(guider, profile(track(*way))) for way in ways]
    assert min(ends) + 0.05 < effective_scale(guider, known) < max(ends) - 0.05


def test_what_cannot_be_matched_is_refused():
    known = profile(track(*predictions()))
    reward = UniversalGuidance(Interval(1, keep=0.5), "jpeg")
    for guider, words in (
        (APG(Match(CFG(4) | Rescale())), "Match: guider"),
        (APG(Match(CFG(Adaptive(4)))), "Match: guider"),
        (CFG(Match(4), reference=WeakModel("emoji-weak")), "emoji-weak.*guiders profile"),
        (APG(Match(40)), "effective scale is 40"),
        (TCFG(Match(4)), "Match: method: expected .*, got 'TCFG'"),
        (reward, "UniversalGuidance"),
    ):
        with pytest.raises(ValueError, match=words):
            resolve(guider, known)
    with pytest.raises(ValueError, match=r"guider: expected .*, got 'strong'"):
        Match("strong")


def test_a_match_within_an_interval_is_as_strong_there():
    clean, gap = predictions()
    known = profile(track(clean, gap))
    found = resolve(APG(Interval(Match(4), low=0.5, high=4), rescale="p75"), known)
    expected = run(CFG(Interval(4, low=0.5, high=4)), clean, gap)[0]
    assert run(found, clean, gap)[0] == pytest.approx(expected, rel=1e-3)
    like = APG(5, momentum=0, rescale=0)  # of itself
    found = resolve(like.replace(scale=Interval(Match(like), low=0.5, high=4)), known)
    assert found.when.scale.scale == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize("numel", [96, 16 * 21 * 60 * 104])
def test_what_is_read_does_not_depend_on_the_size_of_the_latents(numel):
    known = profile(track(*predictions()))
    known.facts["latents"] = [numel]
    radius = 0.05 * numel**0.5
    a = effective_scale(APG(4, rescale=radius), known)
    assert a == pytest.approx(effective_scale(APG(4, rescale_rms=0.05), known))
    vectors = View.of(known, APG(4), 4.0, known.steps)._vectors()
    assert vectors[0][0].numel() <= 10 * 2 * STEPS  # and neither does what it takes


def test_a_match_that_takes_itself_back_is_refused():
    """Reverse momentum outweighs gaps that fall fast: the scale would be anything."""
    clean, gap = predictions()
    fall = torch.tensor([1, 1, 1, 1, 1, 0.2, 0.1], dtype=torch.float64)[:, None]
    with pytest.raises(ValueError, match="against it at 1 of 7 evaluations"):
        resolve(APG(Match(4), rescale=0, momentum=-0.8), profile(track(clean, gap * fall)))


def test_tracks_that_go_nowhere():
    clean, gap = predictions()
    known = profile(track(clean, gap, effective=-0.5), track(clean, gap, effective=4.0))
    assert math.isfinite(effective_scale(APG(2), known))
    weak = WeakModel("emoji-weak")
    own = track(clean, gap, effective=0.9)
    own.guider["reference"] = reference_key(weak)
    own.references.append(reference_key(weak))
    own.gaps.append(replace(own.gaps[0], size=0.1 * own.gaps[0].size))  # the other way
    one, gaps = own.products[:, :STEPS], own.products[:, STEPS:]
    rows = torch.cat([one, gaps, -gaps], 1)
    own.products = torch.cat([rows, -rows[STEPS:]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve(CFG(Adaptive(2, save=0.2), reference=weak), profile(own))


def test_the_scale_of_a_profile_can_always_be_matched():
    """Also where the method's own track came out weaker than the CFG beside it."""
    clean, gap = predictions()
    own = track(clean, gap + 0.2 * clean, scale=9, effective=2.8, kind="APG")
    guider = resolve(APG(Match(4), momentum=0), profile(track(clean, gap), own))
    assert guider.when.scale > 4


def test_another_term_of_a_reference_is_read_from_its_tracks():
    weak = WeakModel("emoji-weak")
    seen = track(*predictions(), scale=2, effective=1.6)
    seen.guider["reference"] = reference_key(weak)
    seen.references.append(reference_key(weak))
    seen.gaps.append(seen.gaps[0])
    clean, gap = predictions()
    rows = torch.cat([clean, gap, gap], 1)
    unit = rows / rows.norm(dim=2, keepdim=True)
    seen.products = (unit @ unit.transpose(1, 2)).mean(0)
    known = profile(track(*predictions()), seen)
    guider = resolve(APG(Match(1.6), momentum=0, reference=weak), known)
    assert guider.when.scale > 1
