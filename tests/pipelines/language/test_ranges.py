"""Ranges in a guider's words: where they may stand, what they are called, where a search begins."""

import pytest
from guiders import APG, CFG, Interval, Linear, Rescale, WeakModel
from guiders.pipelines.language.ranges import parse_space
from hypothesis import given
from hypothesis import strategies as st

AT = [
    ("apg(scale=2..16, eta=0..1)", (4, 0.5), APG(4, eta=0.5)),
    ("cfg(2..10)+interval(0..0.5, 3..20)", (4, 0.25, 9), CFG(Interval(4, low=0.25, high=9))),
    ("cfg(linear(1..3, 4..9))", (2, 5), CFG(Linear(2, 5))),
    ("cfg(2, reference=weak-model(emoji-weak)) + apg(3, momentum=-0.75 .. 0)", (-0.5,),
     CFG(2, reference=WeakModel("emoji-weak")) + APG(3, momentum=-0.5)),
    ("apg(1e0..1e1)|rescale(0...5)", (3, 0.2), APG(3) | Rescale(0.2)),
    ("cfg([1..2, 3])", (1.5,), CFG([1.5, 3])),
    ("apg", (3,), APG(3)),
    ("cfg+interval(0, 5)", (3,), CFG(Interval(3, low=0, high=5))),
]  # fmt: skip


@pytest.mark.parametrize(("text", "values", "guider"), AT)
def test_a_range_stands_wherever_a_number_may(text, values, guider):
    assert parse_space(text).at(values) == guider


def test_settings_have_names_and_the_search_begins_with_their_defaults():
    one = parse_space("cfg(2..10)+interval(0..0.5, 3..20)+adaptive(0.99..0.9999)")
    assert one.names == ["scale", "interval.low", "interval.high", "adaptive.threshold"]
    assert [r.default for r in one.ranges] == [7.5, 0, None, 0.999]
    assert one.start == [7.5, 0, 11.5, 0.999]
    two = parse_space("cfg(1..3)+cfg(8..9, reference=stale)+apg(2..4, eta=0.5..1)|zeroinit(0..4)")
    assert two.names == ["cfg.scale", "cfg.scale 2", "apg.scale", "apg.eta", "zeroinit.steps"]
    assert two.start == [2, 8.5, 3, 0.75, 1]
    assert [r.whole for r in two.ranges] == [False] * 4 + [True]
    three = parse_space(
        "cfg+interval(0..5, 2..20)"
    )  # 2.5 is refused here, but for the other's sake
    assert [r.whole for r in three.ranges] == [False] * 2


def test_the_scale_is_searched_where_no_range_is_given():
    (one,) = parse_space("apg(eta=0.5)+adaptive").ranges
    assert (one.name, one.low, one.high, one.default) == ("scale", 1, 12, 10)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cfg(4..2)", "the range LOW..HIGH.*, got '4..2'"),
        ("cfg(2..2)", "the range LOW..HIGH.*, got '2..2'"),
        ("cfg(2..inf)", "the range LOW..HIGH.*, got '2..inf'"),
        ("cfg(nan..2)", "the range LOW..HIGH.*, got 'nan..2'"),
        ("cfg(2..x)", r"scale: expected .*, got '2\.\.x'"),
        ("cfg(5)", "expected a range .* whose scale cannot be searched"),
        ("none", "expected a range .* whose scale cannot be searched"),
        ("cfgplusplus2m", "whose scale is 0.6 by default and not in 1..12"),
        ("cfg+interval(-1..2)", r"at the end -1 of -1\.\.2, Interval: low: expected .*, got -1"),
        ("cfg(3)|rescale(0..2)", "at the end 2 of 0..2, Rescale: phi: expected .*, got 2"),
        (
            "cfg+interval(0..20, 1..10)",
            "in the middle of its ranges, Interval: high: expected .*, got 5.5",
        ),
        ("cfg(4, reference=confusion([2..3; 4], emoji-clip))", "where no number stands, 2..3"),
        ("cfg(4, reference=linear-ag(../lag.safetensors))", "LinearAG: coefficients: expected"),
        ("ap(2..3)", r"did you mean apg\?"),
        ("apg(1..2, 0..1)" + "+apg(1..2, 0..1)" * 4, "expected at most 8 ranges, got 10"),
    ],
)
def test_what_is_no_search_is_refused_in_words(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_space(text)


def test_ends_may_exclude_each_other_if_others_do_not():
    space = parse_space("cfg+interval(0..8, 1..20)")
    with pytest.raises(ValueError, match=r"high: expected a number above low \(= 7\).*, got 2"):
        space.at([7, 2])


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6), st.floats(0, 1))
def test_rounding_stays_within_and_near(low, width, share):
    from guiders.pipelines.language.ranges import Range

    high = low + width
    if not low < high:
        return
    one, value = Range("", low, high), low + share * (high - low)
    rounded = one.rounded(min(value, high))
    assert low <= rounded <= high
    assert abs(rounded - value) <= (high - low) / 100 or abs(rounded - value) <= 0.5
    assert one.rounded(rounded) == rounded
