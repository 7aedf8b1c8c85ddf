"""Guiders say what they are, come back from JSON, and refuse nonsense by name."""

import json
from dataclasses import dataclass

import methods
import numpy as np
import pytest
import torch
from guiders import (
    APG,
    CADS,
    CFG,
    Adaptive,
    CFGPlusPlus,
    Cosine,
    Custom,
    DynamicThreshold,
    EnergyPreserving,
    Guider,
    Interval,
    Linear,
    PerImage,
    Rescale,
    Scale,
    Stale,
    StepAG,
    ZeroInit,
)
from guiders.guidance import METHODS, Config, Negative, Reference, Term, integer
from hypothesis import given
from hypothesis import strategies as st

positive = st.floats(0, 50)

schedules = st.one_of(
    positive,
    st.lists(positive, min_size=1, max_size=4),
    st.builds(Linear, positive, positive),
    st.builds(Cosine, positive, positive),
)

inside = st.one_of(
    schedules,
    st.builds(Interval, schedules, st.floats(0, 1), st.one_of(st.none(), st.floats(1.5, 9))),
)

scales = st.one_of(
    inside,
    st.builds(Adaptive, inside, st.floats(-1, 1), st.sampled_from(["x0", "eps", "output"])),
)

terms = st.one_of(
    st.builds(CFG, scales),
    st.builds(APG, scales, eta=positive, rescale=positive, momentum=st.floats(-0.9, 0.9)),
    st.builds(APG, scales, rescale_rms=positive),
)

sums = st.lists(terms, min_size=2, max_size=3).map(lambda ts: sum(ts[1:], ts[0]))
guiders = st.one_of(terms, sums, st.builds(lambda g, phi: g | Rescale(phi), sums, st.floats(0, 1)))


@given(guiders)
def test_json_round_trip(guider):
    assert Guider.from_dict(json.loads(json.dumps(guider.to_dict()))) == guider


def test_files(tmp_path):
    guider = APG(Interval(8, low=0.3, high=5)) + CFG(2) | Rescale(0.5)
    guider.save(tmp_path / "g.json")
    assert Guider.load(tmp_path / "g.json") == guider
    (tmp_path / "bad.json").write_text("{")
    for name in ("bad.json", "missing.json"):
        with pytest.raises(ValueError, match=name):
            Guider.load(tmp_path / name)


@pytest.mark.parametrize("kind", [k for k in METHODS.values() if issubclass(k, Guider)])
def test_every_guider_says_what_it_is_and_has_a_source(kind):
    assert str(methods.example(kind)).startswith(kind.__name__)
    assert "arXiv" in kind.__doc__


def test_functions_are_read_back_on_request(tmp_path):
    guider = CFG(Custom("math:sqrt"))
    guider.save(tmp_path / "g.json")
    assert Guider.load(tmp_path / "g.json", functions=True) == guider


def test_deep_nesting_is_refused():
    data = 3.0
    for _ in range(5000):
        data = {"type": "Interval", "scale": data}
    with pytest.raises(ValueError, match="too deeply"):
        Guider.from_dict({"type": "CFG", "scale": data})


def test_scales_come_back_too():
    for scale in (CFG(3).scale, CFG([3, 4]).scale, Linear(1, 2), Adaptive(3)):
        assert Scale.from_dict(scale.to_dict()) == scale


def test_numbers_of_numpy_and_torch():
    for value in (np.float32(3), np.int64(3), torch.tensor(3.0)):
        assert CFG(value) == CFG(3)
    assert CFG(np.array([1, 2])) == CFG(torch.tensor([1.0, 2.0])) == CFG([1, 2])


def test_either_radius_replaces_the_other():
    assert APG().replace(rescale=3) == APG(rescale=3)
    assert APG(rescale=3).replace(rescale_rms=0.1) == APG(rescale_rms=0.1)
    assert APG(rescale=3).replace(eta=1) == APG(rescale=3, eta=1)


def test_printing():
    assert str(APG(10, rescale=15)) == "APG scale 10, eta 0, rescale 15, momentum -0.5"
    assert str(CFG(5) + CFG(Interval(3, high=5)) | Rescale()) == (
        "CFG scale 5 + CFG scale 3 for sigma in (0, 5] | Rescale phi 0.7"
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CFG(-1), ["CFG", "scale", "-1", "at least 0"]),
        (lambda: CFG(float("nan")), ["scale", "nan"]),
        (lambda: CFG("7"), ["scale", "'7'"]),
        (lambda: CFG(True), ["scale", "True"]),
        (lambda: CFG([]), ["scale", "[]"]),
        (lambda: CFG([3, -2]), ["scale", "-2"]),
        (lambda: CFG(reference="u"), ["reference", "'u'", "Negative()"]),
        (lambda: APG(eta=-0.1), ["APG", "eta", "-0.1", "at least 0"]),
        (lambda: APG(momentum=1), ["momentum", "between -1 and 1"]),
        (lambda: APG(rescale=-3), ["rescale", "-3", "None"]),
        (lambda: APG(rescale=3, rescale_rms=0.1), ["rescale_rms", "0.1", "rescale (= 3)"]),
        (lambda: Interval(3, low=2, high=1), ["Interval", "high", "1", "above low (= 2)"]),
        (lambda: Adaptive(3, space="v"), ["space", "'v'", "x0, eps, output"]),
        (lambda: Adaptive(3, threshold=-2), ["threshold", "-2", "between -1 and 1"]),
        (lambda: Rescale(2), ["phi", "2", "between 0 and 1"]),
        (lambda: Guider.from_dict({"type": "CFH"}), ["CFH", "CFG"]),
        (lambda: Guider.from_dict({"type": "CFG", "scael": 3}), ["CFG", "scael", "scale"]),
        (lambda: Guider.from_dict({"type": "Linear"}), ["Guider"]),
        (lambda: Guider.from_dict(3), ["3"]),
        (lambda: Guider.from_dict({"type": []}), ["type", "[]"]),
        (lambda: CFG(10**400), ["scale"]),
        (lambda: Scale.from_dict({"type": "Custom", "function": []}), ["functions=True"]),
        (lambda: CFG(CFG), ["scale"]),
        (lambda: CFG(Rescale()), ["scale", "Rescale"]),
        (lambda: PerImage(()), ["scales", "at least one"]),
        (lambda: Custom(5), ["function", "5"]),
        (lambda: Custom("sys:path"), ["function", "function of Step"]),
        (lambda: Adaptive(Interval(Adaptive(3))), ["scale", "another Adaptive"]),
        (
            lambda: Scale.from_dict({"type": "Custom", "function": "a:b"}),
            ["Custom", "functions=True"],
        ),
        (lambda: (CFG(2) | Rescale()) + CFG(2), ["(a + b) | post"]),
    ],
)
def test_nonsense_is_refused_with_the_argument_the_value_and_what_is_allowed(make, words):
    with pytest.raises(ValueError) as error:
        make()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: CFG(5).replace(scal=3),
            r"CFG has no setting scal \(= 3\).*perhaps scale is meant",
        ),
        (lambda: CFG(guidance_scale=5), "in place of guidance_scale use scale"),
        (lambda: APG(norm_threshold=15), "in place of norm_threshold use rescale"),
        (lambda: CFG(5, guidance_rescale=0.7), r"use guider \| Rescale\(phi\)"),
        (lambda: CFG(5, zoom=2), "scale, reference$"),
        (lambda: Guider.load(3), "path: expected a JSON file.*, got '3'"),
        (lambda: CFG(5) + 3, r"CFG \+ 3: allowed is another guider"),
        (lambda: CFG(5) + None, r"CFG \+ None: allowed is another guider"),
        (lambda: 3 + CFG(5), r"3 \+ CFG: allowed is another guider"),
        (lambda: CFG(5) * 2, "CFG times 2: a guider's strength is its scale"),
        (lambda: 2 * CFG(5), "CFG times 2: a guider's strength is its scale"),
        (lambda: CFG(5) | CFG(3), r"added with \+: CFG \+ CFG"),
        (lambda: CFG(5) | 3, r"CFG \| 3: allowed is what acts on the result"),
        (lambda: Interval(Interval(5, 0, 1), 2, 3), r"overlaps with \(2, 3\]"),
        (lambda: Interval(StepAG(Interval(5, 1), 0.5), 0, 1), r"overlaps with \(0, 1\]"),
        (
            lambda: Adaptive(5, threshold=2),
            "threshold: expected a number between -1 and 1.*, got 2",
        ),
        (lambda: Stale(threshold=2), "threshold: expected a number between -1 and 1.*, got 2"),
    ],
)
def test_a_slip_gets_one_sentence(make, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_be_written_as_floats():
    @dataclass(frozen=True)
    class Counted(Config):
        count: int = integer(3, low=1, high=10**7)
        rest: int | None = integer(None, low=0, optional=True)

    assert Counted(4.0) == Counted(4, None)
    assert type(Counted(4.0).count) is int
    assert Counted(np.int64(4), rest=2).rest == 2
    for wrong in (0, 1.5, True, "3", None, float("nan"), 10**7 + 1):
        with pytest.raises(ValueError, match="count: expected a whole number between 1"):
            Counted(wrong)
    with pytest.raises(ValueError, match=r"rest: expected .* at least 0 or None, got -1"):
        Counted(rest=-1)


def test_a_method_without_its_decorator_is_refused_in_words():
    class Forgotten(Term):
        scale: float = 3.0
        reference: Reference = Negative()

    class Inherited(CFG):
        scale: float = 3.0

    @dataclass
    class Thawed(Term):
        scale: float = 3.0
        reference: Reference = Negative()  # noqa: RUF009

    for kind, got in ((Forgotten, "none"), (Inherited, "none"), (Thawed, "@dataclass")):
        words = rf"class {kind.__name__}: expected .*@dataclass\(frozen=True\).*, got {got}"
        with pytest.raises(TypeError, match=words):
            kind()


def test_a_class_of_the_same_name_is_another_one_in_json():
    other = dataclass(frozen=True)(type("CFG", (CFG,), {"__module__": "elsewhere"}))
    assert other(3).to_dict()["type"] == "elsewhere:CFG"
    assert type(Guider.from_dict(other(3).to_dict())) is other
    assert type(Guider.from_dict(CFG(3).to_dict())) is CFG


def test_code_of_a_file_is_run_on_request_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ran.py").write_text("import pathlib\npathlib.Path('trace').touch()\nhalf = 0.5\n")
    for data in ({"type": "ran.py:half"}, {"type": "Custom", "function": "ran.py:half"}):
        with pytest.raises(ValueError, match="functions=True"):
            Guider.from_dict({"type": "CFG", "scale": data})
    assert not (tmp_path / "trace").exists()
    with pytest.raises(ValueError, match=r"a class derived from Term.*, got 'ran.py:half'"):
        Guider.from_dict({"type": "ran.py:half"}, functions=True)
    assert (tmp_path / "trace").exists()
    for name in ("nowhere.py:Halved", "ran.py:Halved", "nowhere_at_all:Halved"):
        with pytest.raises(ValueError, match=f"can be imported, got '{name}'"):
            Guider.from_dict({"type": name}, functions=True)


def test_guiders_are_summed():
    terms = [CFG(5), APG(3), CFG(2)]
    assert sum(terms) == CFG(5) + APG(3) + CFG(2)
    assert sum([CFG(5)]) == CFG(5)


def test_intervals_within_intervals_may_overlap():
    for scale in (Interval(Interval(5, 0, 2), 1, 3), Interval(Interval(5, keep=0.9), 2, 3)):
        assert CFG(scale).scale == scale


def test_bounds_are_checked_by_name():
    for make, words in (
        (lambda: StepAG(3, share=2), "share: expected .*, got 2"),
        (lambda: CFGPlusPlus(7), "lam: expected .*, got 7"),
        (lambda: ZeroInit(1.5), "steps: expected .*, got 1.5"),
        (lambda: CADS(low=0.9, high=0.5), "high: expected .*, got 0.5"),
        (lambda: EnergyPreserving(60, 40), "high: expected .*, got 40"),
        (lambda: DynamicThreshold(limit=0), "limit: expected .*, got 0"),
        (lambda: Stale(of=Interval(3)), "of: expected .*, got Interval"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
