"""Intent by a profile: what a profile of known predictions must say."""

import json
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
    Guider,
    Interval,
    Linear,
    Match,
    Profile,
    Rescale,
    RewardGuidance,
    StepAG,
    WeakModel,
    resolve,
)
from guiders.guidance import (
    POSITIVE,
    Denoiser,
    Level,
    Negative,
    Prediction,
    Query,
    Readout,
    Step,
    effective_scale,
    intents,
)
from guiders.guidance.calibration.profile import LEVELS, Effect, Gap, Track, reference_key
from guiders.guidance.calibration.simulate import View
from hypothesis import given, settings
from hypothesis import strategies as st

STEPS, NUMEL = 7, 96
SIGMA = [float(s) for s in torch.logspace(1.2, -0.7, STEPS)]
EDGES = [0, 2, 4, 7]
NAMES = ("cosine", "cosine_eps", "parallel", "norm_ratio")


def steps(stages=None):
    stages = stages or [0] * STEPS
    return [Step(i, STEPS, stages[i], Level(1, s)) for i, s in enumerate(SIGMA)]


def quantiles(values):
    """(T, levels) over prompts of (N, T)."""
    return values.quantile(torch.tensor(LEVELS, dtype=torch.float64), dim=0).T


def track(clean, gap, scale=4.0, effective=None, kind="CFG"):
    """Of predictions (N, T, NUMEL), as ``guiders profile`` makes it."""
    rows = torch.cat([clean, gap], 1)
    unit = rows / rows.norm(dim=2, keepdim=True)
    other = clean - gap
    cosine = torch.cosine_similarity(clean, other, dim=2).cummax(1).values
    flat = torch.zeros(clean.shape[1], dtype=torch.float64)
    return Track(
        {"type": kind, "reference": reference_key(Negative()), "scale": scale},
        scale if effective is None else effective,
        len(clean),
        clean.norm(dim=2).mean(0) / NUMEL**0.5,
        [reference_key(Negative())],
        [
            Gap(
                quantiles(gap.norm(dim=2) / NUMEL**0.5),
                {"x0": quantiles(1 - cosine), "eps": quantiles((1 - cosine) / 10)},
                flat, flat, flat, flat, dict.fromkeys(NAMES, flat),
            )
        ],
        (unit @ unit.transpose(1, 2)).mean(0),
    )  # fmt: skip


def profile(*tracks, stages=None, scales=(4.0,)):
    effects = [
        Effect(s, 8, 0.2, EDGES, [0.3, 0.5, 0.1], [0, 0.3, 0.8, 1], [1, 0.7, 0.1, 0])
        for s in scales
    ]
    facts = {"model": "made up", "pipeline": "", "scheduler": "DDIMScheduler", "latents": [NUMEL],
             "num_inference_steps": STEPS, "prompts": 8}  # fmt: skip
    return Profile(facts, list(SIGMA), stages or [0] * STEPS, list(tracks), effects, 1.9)


def predictions(prompts=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(prompts, STEPS, NUMEL, generator=generator, dtype=torch.float64)
    shared = torch.randn(prompts, 1, NUMEL, generator=generator, dtype=torch.float64)
    own = torch.randn(prompts, STEPS, NUMEL, generator=generator, dtype=torch.float64)
    fading = torch.linspace(0.5, 0.05, STEPS, dtype=torch.float64)[:, None]
    return clean, fading * (shared + 0.7 * own + 0.4 * clean)


def run(guider, clean, gap, stages=None):
    """The mean effective scale, and evaluations, of a guider on given predictions (N, T, NUMEL)."""
    denoiser = Denoiser(guider, len(clean), diagnose=True)
    scales, evaluations = [], []
    for step in steps(stages):
        c, g = clean[:, step.index], gap[:, step.index]

        def network(q, requests, c=c, g=g):
            return {
                branch: Prediction(q.x, c if branch == POSITIVE else c - g, Readout(0, 1)).rows(r)
                for branch, r in requests.items()
            }

        record = denoiser(Query(torch.zeros_like(c), step), network).record
        scales.append(record.diagnosis.effective_scale)
        evaluations.append(record.evaluations)
    return sum(map(sum, scales)) / (len(clean) * STEPS), torch.tensor(evaluations).sum(0)


# Replay


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


# Match


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
    reward = RewardGuidance(Interval(1, keep=0.5), "jpeg")
    for guider, words in (
        (APG(Match(CFG(4) | Rescale())), "Match: guider"),
        (APG(Match(CFG(Adaptive(4)))), "Match: guider"),
        (CFG(Match(4), reference=WeakModel("emoji-weak")), "emoji-weak.*guiders profile"),
        (APG(Match(40)), "effective scale is 40"),
        (TCFG(Match(4)), "Match: method: expected .*, got 'TCFG'"),
        (reward, "RewardGuidance"),
    ):
        with pytest.raises(ValueError, match=words):
            resolve(guider, known)
    with pytest.raises(ValueError, match=r"guider: expected .*, got 'strong'"):
        Match("strong")


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


# Interval


def test_what_an_interval_keeps():
    effect = profile(track(*predictions())).effects[0]
    assert effect.kept(0, STEPS - 1) == 1
    assert effect.kept(0, 3) == pytest.approx(0.9)
    assert effect.kept(2, STEPS - 1) == pytest.approx(0.7)
    assert effect.kept(2, 3) == pytest.approx(1 - math.hypot(0.3, 0.1))
    assert effect.kept(1, STEPS - 1) == pytest.approx(0.85)  # linear within a group


@pytest.mark.parametrize(
    ("keep", "kept"), [(0.9, range(4)), (0.65, range(2, 4)), (0.999, range(7))]
)
def test_the_smallest_interval_that_keeps_as_much(keep, kept):
    guider = resolve(CFG(Interval(4, keep=keep)), profile(track(*predictions())))
    scales = [denoised(guider, step) for step in steps()]
    assert [i for i, scale in enumerate(scales) if scale != 1] == list(kept)


def denoised(guider, step):
    from guiders.guidance.engine.state import State

    return guider.when.at(step, State(1))[0]


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


# Files


def test_a_profile_is_the_same_from_its_file(tmp_path):
    known = profile(track(*predictions(prompts=40)))
    known.sigma[0] = math.inf
    known.save(tmp_path / "p.json")
    again = Profile.load(tmp_path / "p.json")
    assert again.sigma == pytest.approx(known.sigma, rel=1e-5)
    for guider in (CFG(Adaptive(4, save=0.2)), APG(Match(4)), CFG(Interval(4, keep=0.65))):
        one, other = (resolve(guider, each).to_dict()["scale"] for each in (known, again))
        for value in (one, other):
            assert value
        numbers = [
            v if isinstance(v, float) else v.get("threshold", v.get("low")) for v in (one, other)
        ]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02)


def test_another_run_is_refused():
    known = profile(track(*predictions()))
    other = [Step(i, STEPS, 0, Level(1, 1.1 * s)) for i, s in enumerate(SIGMA)]
    with pytest.raises(ValueError, match=r"noise levels are 7 evaluations .*guiders profile"):
        resolve(APG(Match(4)), known, other)
    with pytest.raises(ValueError, match="noise levels"):
        resolve(APG(Match(4)), known, steps()[:-1])
    with pytest.raises(ValueError, match=r"latents are \(4, 8\)"):
        resolve(APG(Match(4)), known, steps(), (4, 8))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("format"),
        lambda d: d.pop("tracks"),
        lambda d: d["tracks"].clear(),
        lambda d: d["effects"].clear(),
        lambda d: d["sigma"].pop(),
        lambda d: d["tracks"][0].update(products="AAAA"),
        lambda d: d["tracks"][0].update(products="no base64"),
        lambda d: d["tracks"][0]["gaps"][0]["size"].pop(),
        lambda d: d["tracks"][0]["gaps"][0].pop("disagreement"),
        lambda d: d["facts"].update(latents="many"),
        lambda d: d["facts"].update(latents=[10**400]),
        lambda d: d["facts"].update(latents=[-4, -8, 3]),
        lambda d: d["facts"].update(model="\x1b[2Jmodel"),
        lambda d: d["facts"].pop("scheduler"),
        lambda d: d["sigma"].__setitem__(0, -1.0),
        lambda d: d["sigma"].__setitem__(0, float("nan")),
        lambda d: d["stage"].__setitem__(0, "first"),
        lambda d: d.update(tracks=[3]),
        lambda d: d.update(facts=[3]),
        lambda d: d["tracks"][0].update(effective=None),
        lambda d: d["tracks"][0].update(guider={}),
        lambda d: d["tracks"][0].update(references=["another"]),
        lambda d: d["tracks"][0]["gaps"][0]["size"][2].__setitem__(1, None),
        lambda d: d["tracks"][0]["gaps"][0]["size"][2].pop(),
        lambda d: d["tracks"][0]["gaps"][0].update(spread={}),
        lambda d: d["effects"][0].update(edges=[0, 4, 2, 7]),
        lambda d: d["effects"][0].update(before=[0.5, 0.3, 0.8, 1]),
        lambda d: d["effects"][0].update(alone=[0.1]),
        lambda d: d["effects"][0].update(colour={"saturation": [1]}),
        lambda d: d["effects"][0].update(scale=0),
    ],
)
def test_files_that_are_no_profiles(tmp_path, change):
    path = tmp_path / "p.json"
    profile(track(*predictions())).save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"Profile: path: expected .*guiders profile.*p.json"):
        Profile.load(path)


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


def test_a_match_that_takes_itself_back_is_refused():
    """Reverse momentum outweighs gaps that fall fast: the scale would be anything."""
    clean, gap = predictions()
    fall = torch.tensor([1, 1, 1, 1, 1, 0.2, 0.1], dtype=torch.float64)[:, None]
    with pytest.raises(ValueError, match="against it at 1 of 7 evaluations"):
        resolve(APG(Match(4), rescale=0, momentum=-0.8), profile(track(clean, gap * fall)))


def test_a_threshold_is_printed_as_it_is():
    seen = track(*predictions(prompts=50))
    seen.gaps[0].disagreement["x0"] *= 1e-6
    found = resolve(CFG(Adaptive(4, save=0.3)), profile(seen)).when
    assert 0.999 < found.threshold < 1
    assert float(str(found).rpartition(" ")[2]) == found.threshold


def test_what_is_compared_is_stored_as_it_is(tmp_path):
    from guiders import SmoothedAttention

    known = profile(track(*predictions(), scale=7.525, effective=7.525), scales=(7.525,))
    smoothed = SmoothedAttention(12.3456)
    first = known.tracks[0]
    first.references.append(reference_key(smoothed))
    first.gaps.append(first.gaps[0])
    first.products = torch.eye(3 * STEPS, dtype=torch.float64)
    known.save(tmp_path / "p.json")
    again = Profile.load(tmp_path / "p.json")
    assert again.scales == [7.525]
    assert again.tracks[0].guider == first.guider
    assert again.tracks[0].gap(smoothed) is not None


def test_a_kill_leaves_the_old_file(tmp_path, monkeypatch):
    known = profile(track(*predictions()))
    known.save(tmp_path / "p.json")
    before = (tmp_path / "p.json").read_text()
    known.cost = 3

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        known.save(tmp_path / "p.json")
    assert (tmp_path / "p.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_other_stages_are_another_run():
    with pytest.raises(ValueError, match="noise levels"):
        resolve(APG(Match(4)), profile(track(*predictions())), steps([0, 1, 0, 1, 0, 1, 0]))


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


def test_a_profile_by_its_file_and_in_a_line(tmp_path):
    known = profile(track(*predictions()))
    known.save(tmp_path / "p.json")
    one, other = (resolve(APG(Match(4)), each) for each in (tmp_path / "p.json", known))
    assert one.when.scale == pytest.approx(other.when.scale, rel=0.01)
    assert repr(known) == "Profile of made up, 7 steps of DDIMScheduler, CFG at 4"
