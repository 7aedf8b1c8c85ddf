"""References that perturb the network: what they accept, say, and become in JSON."""

import pytest
from guiders import (
    APG,
    CFG,
    AdapterOff,
    Guider,
    Interval,
    PerturbedAttention,
    SkipLayers,
    SmoothedAttention,
)
from guiders.guidance import Reference
from hypothesis import given, settings
from hypothesis import strategies as st

layers = st.one_of(
    st.none(),
    st.lists(
        st.one_of(st.integers(0, 60), st.sampled_from(["mid_block", "up_blocks.1"])), min_size=1
    ),
)
references = st.one_of(
    st.builds(PerturbedAttention, layers),
    st.builds(SmoothedAttention, st.one_of(st.none(), st.floats(0.1, 1e6)), layers),
    st.builds(SkipLayers, layers, st.sampled_from(["block", "attention", "feed_forward"])),
    st.builds(AdapterOff, st.one_of(st.none(), st.lists(st.text(min_size=1), min_size=1))),
)


@settings(max_examples=50, deadline=None)
@given(references)
def test_they_come_back_from_json_and_one_branch_is_one_evaluation(reference):
    guider = CFG(5) + APG(Interval(4, low=1), reference=reference)
    again = Guider.from_dict(guider.to_dict())
    assert again == guider
    assert again.terms[1].reference.branch() == reference.branch()
    assert hash(again.terms[1].reference.branch()) == hash(reference.branch())
    assert reference.branch().condition == "positive"
    assert reference.branch().change == reference


def test_layers_by_number_and_by_name():
    assert SkipLayers(7).layers == (7,)
    assert SkipLayers([7.0, 8.0, 8.0]).layers == (7, 8)  # as the command line reads numbers
    assert SkipLayers("mid_block").layers == ("mid_block",)
    assert AdapterOff("style") == AdapterOff(["style"])


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (PerturbedAttention(), "perturbed attention"),
        (PerturbedAttention("mid_block"), "perturbed attention in mid_block"),
        (SmoothedAttention(10, (7, 8)), "smoothed attention in 7, 8, blur 10"),
        (SkipLayers(), "without the middle blocks"),
        (SkipLayers((7, 8)), "without 7, 8"),
        (SkipLayers(7, "feed_forward"), "without feed-forward of 7"),
        (AdapterOff(), "without adapters"),
    ],
)
def test_what_they_say_they_are(reference, text):
    assert str(reference) == text
    assert str(CFG(4, reference=reference)) == f"CFG scale 4, reference {text}"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SkipLayers(()), r"layers: expected numbers or names.*, got \(\)"),
        (lambda: SkipLayers(-1), "layers: expected .*, got -1"),
        (lambda: PerturbedAttention([1.5]), r"layers: expected .*, got \[1.5\]"),
        (lambda: PerturbedAttention(True), r"layers: expected .*, got True"),
        (lambda: SmoothedAttention(0), "blur: expected a number above 0 or None.*, got 0"),
        (lambda: SmoothedAttention(float("inf")), r"blur: expected .*, got inf"),
        (lambda: SkipLayers(what="heads"), "what: expected one of block, attention.*, got 'heads'"),
        (lambda: AdapterOff([]), r"names: expected a list of names of adapters.*, got \[\]"),
        (lambda: AdapterOff([3]), r"names: expected .*, got \[3\]"),
        (lambda: Reference.from_dict({"type": "SkipLayers", "layer": 3}), "no setting layer"),
    ],
)
def test_nonsense_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()
