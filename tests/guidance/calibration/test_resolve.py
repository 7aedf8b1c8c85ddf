"""Settings that ask for an effect, resolved by a profile of known predictions."""

import json
import math

import pytest
import torch
from guiders import (
    APG,
    CFG,
    Adaptive,
    Guider,
    Interval,
    Linear,
    Match,
    Rescale,
    WeakModel,
    resolve,
)
from guiders.guidance import Denoiser, intents
from guiders.guidance.calibration.profile import reference_key
from profiles import (
    NUMEL,
    SIGMA,
    STEPS,
    denoised,
    predictions,
    profile,
    run,
    steps,
    track,
)

# Adaptive


@pytest.mark.parametrize("stages", [None, [0, 1, 0, 1, 0, 1, 0]])
@pytest.mark.parametrize("save", [0.1, 0.2, 0.3])
def test_adaptive_saves_what_was_asked_for(save, stages):
    clean, gap = predictions(prompts=400)
    known = profile(track(clean, gap), stages=stages)
    guider = resolve(CFG(Adaptive(4, save=save)), known, steps(stages))
    _, evaluations = run(guider, clean, gap, stages)
    assert 1 - evaluations.double().mean() / (2 * STEPS) == pytest.approx(save, abs=0.02)


def test_more_than_can_be_saved_is_refused():
    known = profile(track(*predictions(prompts=50)))
    with pytest.raises(ValueError, match=r"save is 0.49; allowed is at most 0.429 in 7 eval"):
        resolve(CFG(Adaptive(4, save=0.49)), known)


@pytest.mark.parametrize(
    ("keep", "kept"), [(0.9, range(4)), (0.65, range(2, 4)), (0.999, range(7))]
)
def test_the_smallest_interval_that_keeps_as_much(keep, kept):
    guider = resolve(CFG(Interval(4, keep=keep)), profile(track(*predictions())))
    scales = [denoised(guider, step) for step in steps()]
    assert [i for i, scale in enumerate(scales) if scale != 1] == list(kept)


def test_the_effect_of_another_reference_is_not_known():
    weak = WeakModel("emoji-weak")
    seen = track(*predictions())
    seen.references.append(reference_key(weak))
    seen.gaps.append(seen.gaps[0])
    seen.products = torch.eye(3 * STEPS, dtype=torch.float64)
    known = profile(seen)
    with pytest.raises(ValueError, match="keep"):
        resolve(CFG(Interval(4, keep=0.9), reference=weak), known)


# The radius


def test_the_radius_is_a_percentile_of_the_gap_with_its_momentum():
    clean, gap = predictions()
    kept, sizes = torch.zeros(1, NUMEL, dtype=torch.float64), []
    for t in range(STEPS):
        kept = gap[:, t] - 0.5 * kept
        sizes.append(kept.norm(dim=1) / NUMEL**0.5)
    expected = float(torch.cat(sizes).repeat(10).quantile(0.9))  # ten prompts alike
    guider = resolve(APG(4, rescale="p90"), profile(track(clean, gap)))
    assert guider.rescale is None
    assert guider.rescale_rms == pytest.approx(expected, rel=1e-3)


# Intent as such


def test_explicit_numbers_stay():
    guider = APG(Interval(5, 0.1, 3)) + CFG(2) | Rescale(0.3)
    assert intents(guider) == []
    assert resolve(guider, profile(track(*predictions()))) is guider


def test_all_of_a_guider_is_resolved():
    known = profile(track(*predictions(prompts=30)))
    guider = APG(Adaptive(Interval(Match(4), keep=0.9), save=0.25), rescale="p75") + CFG(
        Interval(3, keep=0.65)
    ) | Rescale(0.4)
    assert len(intents(guider)) == 5
    found = resolve(guider, known)
    assert intents(found) == []
    assert resolve(found, known) is found
    assert found.posts == guider.posts
    gate = found.terms[0].when
    assert isinstance(gate, Adaptive)
    assert gate.scale.scale.scale > 4  # APG does less than CFG at the same number
    assert Guider.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "guider",
    [
        CFG(Adaptive(3, save=0.2)),
        CFG(Interval(3, keep=0.9)),
        APG(Match(CFG(7.5))),
        APG(rescale="p90"),
        CFG(3) + APG(Match(3)),
    ],
)
def test_without_a_profile_intent_is_an_error(guider):
    assert Guider.from_dict(json.loads(json.dumps(guider.to_dict()))) == guider
    with pytest.raises(ValueError, match=r"guider has .*resolve\("):
        Denoiser(guider, 1)


def test_what_excludes_each_other():
    assert Adaptive(3, threshold=0.9).replace(save=0.2) == Adaptive(3, save=0.2)
    assert Adaptive(3, save=0.2).replace(threshold=0.9) == Adaptive(3, threshold=0.9)
    assert Interval(3, 1, 2).replace(keep=0.5) == Interval(3, keep=0.5)
    assert Interval(3, keep=0.5).replace(low=1) == Interval(3, low=1)
    for make, words in (
        (lambda: Adaptive(3, threshold=0.9, save=0.2), "save: expected .*, got 0.2"),
        (lambda: Adaptive(3, space="output", save=0.2), "save: expected .*, got 0.2"),
        (lambda: Adaptive(3, save=0.6), "save: expected .*, got 0.6"),
        (lambda: Interval(3, low=1, keep=0.9), "keep: expected .*, got 0.9"),
        (lambda: Interval(3, keep=1), "keep: expected .*, got 1"),
        (lambda: APG(rescale="p100"), "rescale: expected .*, got 'p100'"),
        (lambda: APG(rescale="big"), "rescale: expected .*, got 'big'"),
        (lambda: APG(rescale="p90", rescale_rms=0.1), "rescale_rms: expected .*, got 0.1"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


# What a guider is made of counts


@pytest.mark.parametrize("save", [0.24, 0.28])
@pytest.mark.parametrize(
    "guider",
    [
        CFG(Adaptive(Interval(4, high=8), save=0.25)),
        CFG(Interval(Adaptive(4, save=0.25), low=0.5, high=8)),
        CFG(Adaptive(Linear(1, 9), save=0.25)),
        CFG(Adaptive([3, 4, 5, 6, 7], save=0.25)),
        CFG(Adaptive(lambda step: [4, 5], save=0.25)),
        CFG(Adaptive(2, save=0.25)) + APG(Adaptive(3, save=0.25)),
        APG(Adaptive(3, save=0.25)) + CFG(Interval(2, low=3)),
    ],
)
def test_the_whole_run_saves_what_was_asked_for(guider, save):
    clean, gap = predictions(prompts=400)
    known = profile(track(clean, gap))

    def asked(scale):
        changes = {"save": save} if isinstance(scale, Adaptive) else {}
        if isinstance(scale, (Adaptive, Interval)):
            return scale.replace(scale=asked(scale.scale), **changes)
        return scale

    terms = [term.replace(scale=asked(term.when)) for term in guider.terms]
    guider = resolve(terms[0] if len(terms) == 1 else terms[0] + terms[1], known)
    _, evaluations = run(guider, clean, gap)
    assert 1 - evaluations.double().mean() / (2 * STEPS) == pytest.approx(save, abs=0.02)


def test_what_is_saved_anyway_and_what_never_is():
    known = profile(track(*predictions(prompts=50)))
    for guider, words in (
        (CFG(Adaptive(Interval(4, low=3), save=0.2)), "save is 0.2; allowed is above 0.286"),
        (CFG(Adaptive(4, save=0.2)) + APG(3), "at most 0 in 7 .* other terms guide"),
        (CFG(Adaptive(4, save=0.2)) + APG(Adaptive(3, save=0.3)), "the same share"),
        (CFG(Adaptive(1, save=0.2)), "allowed is None, since 0.5 is saved without it"),
    ):
        with pytest.raises(ValueError, match=words):
            resolve(guider, known)


def test_where_nothing_is_known_nothing_is_saved():
    seen = track(*predictions(prompts=50))
    seen.gaps[0].disagreement["eps"][:2] = 2.0  # sigma is infinite
    with pytest.raises(ValueError, match=r"save is 0.4; allowed is at most 0.286"):
        resolve(CFG(Adaptive(4, space="eps", save=0.4)), profile(seen))


def test_a_sum_is_read_where_all_of_it_is():
    clean, gap = predictions(prompts=50)
    known = profile(track(clean, gap, scale=2.0), track(clean, 0.3 * gap, scale=8.0))
    whole = resolve(CFG(Adaptive(7, save=0.2)), known).when.threshold
    found = resolve(CFG(Adaptive(4, save=0.2)) + CFG(Adaptive(4, save=0.2)), known)
    assert [term.when.threshold for term in found.terms] == pytest.approx([whole, whole])


def test_terms_that_were_not_measured_are_left_as_they_are():
    known = profile(track(*predictions(prompts=50)))
    other = CFG(2, reference=WeakModel("emoji-weak"))
    assert resolve(APG(4, rescale="p90") + other, known).terms[1] == other


def test_the_radius_is_of_the_gaps_that_are_guided():
    clean, gap = predictions()
    expected = gap[0, 3:5].norm(dim=1).repeat(10).quantile(0.5) / NUMEL**0.5
    guider = APG(Interval(4, low=SIGMA[5], high=SIGMA[3]), rescale="p50", momentum=0)
    found = resolve(guider, profile(track(clean, gap)))
    assert found.rescale_rms == pytest.approx(float(expected), rel=1e-3)


def test_no_gap_at_one_evaluation():
    clean, gap = predictions()
    gap[:, 3] = 0
    seen = track(clean, gap)
    seen.products = seen.products.nan_to_num()
    found = resolve(APG(4, rescale="p90"), profile(seen))
    assert math.isfinite(found.rescale_rms)


@pytest.mark.parametrize("keep", [0.5, 0.65, 0.85])
def test_an_interval_is_of_whole_solver_steps(keep):
    stages, sigma = [0, 1, 0, 1, 0, 1, 0], [9.0, 5, 5, 2, 2, 1, 1]
    known = profile(track(*predictions()), stages=stages)
    known.sigma[:] = sigma
    known.effects[0].edges = [0, 3, 5, 7]
    guider = resolve(CFG(Interval(4, keep=keep)), known)
    scales = []
    for step in known.steps:
        scales.append(denoised(guider, step) if step.stage == 0 else scales[-1])
    inside = [i for i, scale in enumerate(scales) if scale != 1]
    assert known.effects[0].kept(inside[0], inside[-1]) >= keep
    assert len(inside) < 7


def test_a_cosine_that_was_larger_where_nobody_looks():
    seen = track(*predictions(prompts=50))
    seen.gaps[0].cosine_eps = torch.linspace(0.999, 0.99, STEPS)  # it falls
    known = profile(seen)
    resolve(CFG(Adaptive(4, space="eps", save=0.3)), known)
    with pytest.raises(ValueError, match=r"begins at sigma 1.778: the cosine of eps was larger"):
        resolve(CFG(Adaptive(Interval(4, high=2), space="eps", save=0.4)), known)


def test_a_threshold_is_printed_as_it_is():
    seen = track(*predictions(prompts=50))
    seen.gaps[0].disagreement["x0"] *= 1e-6
    found = resolve(CFG(Adaptive(4, save=0.3)), profile(seen)).when
    assert 0.999 < found.threshold < 1
    assert float(str(found).rpartition(" ")[2]) == found.threshold


def test_another_network_of_the_same_class_was_not_measured():
    one, other = (torch.nn.Linear(1, 1) for _ in range(2))
    seen = track(*predictions(prompts=50))
    seen.references.append(reference_key(WeakModel(one)))
    seen.gaps.append(seen.gaps[0])
    seen.products = torch.eye(3 * STEPS, dtype=torch.float64)
    known = profile(seen)
    resolve(CFG(Adaptive(4, save=0.2), reference=WeakModel(one)), known)
    with pytest.raises(ValueError, match="not measured with"):
        resolve(CFG(Adaptive(4, save=0.2), reference=WeakModel(other)), known)


def test_a_bound_that_leaves_nothing_out_is_said():
    known = profile(track(*predictions()))
    with pytest.warns(UserWarning, match="keep=0.999 leaves nothing out"):
        resolve(CFG(Interval(4, keep=0.999)), known)
