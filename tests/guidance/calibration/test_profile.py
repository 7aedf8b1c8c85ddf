"""A profile as data and as a file, and the runs that it is of."""

import json
import math

import pytest
import torch
from guiders import (
    APG,
    CFG,
    Adaptive,
    Interval,
    Match,
    Profile,
    resolve,
)
from guiders.guidance import Level, Step
from guiders.guidance.calibration.profile import reference_key
from profiles import (
    SIGMA,
    STEPS,
    predictions,
    profile,
    steps,
    track,
)


def test_what_an_interval_keeps():
    effect = profile(track(*predictions())).effects[0]
    assert effect.kept(0, STEPS - 1) == 1
    assert effect.kept(0, 3) == pytest.approx(0.9)
    assert effect.kept(2, STEPS - 1) == pytest.approx(0.7)
    assert effect.kept(2, 3) == pytest.approx(1 - math.hypot(0.3, 0.1))
    assert effect.kept(1, STEPS - 1) == pytest.approx(0.85)  # linear within a group


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


def test_a_profile_by_its_file_and_in_a_line(tmp_path):
    known = profile(track(*predictions()))
    known.save(tmp_path / "p.json")
    one, other = (resolve(APG(Match(4)), each) for each in (tmp_path / "p.json", known))
    assert one.when.scale == pytest.approx(other.when.scale, rel=0.01)
    assert repr(known) == "Profile of made up, 7 steps of DDIMScheduler, CFG at 4"
