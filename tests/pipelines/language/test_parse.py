"""Guiders as words."""

import pytest
from guiders import APG, CFG, Adaptive, Interval, Rescale
from guiders.pipelines.language.parse import parse_guider


@pytest.mark.parametrize(
    ("text", "guider"),
    [
        ("cfg", CFG()),
        ("none", CFG(1)),
        ("APG(12, eta=0.2)", APG(12, eta=0.2)),
        ("apg + adaptive", APG(Adaptive(10))),
        (
            "cfg(4)+adaptive(0.9)+interval(0.3, 5)",
            CFG(Interval(Adaptive(4, threshold=0.9), 0.3, 5)),
        ),
        ("cfg(4)+apg(3)+rescale(0.5)", CFG(4) + APG(3) | Rescale(0.5)),
        ("cfg([3, 4])", CFG([3, 4])),
        ("apg(rescale=none)", APG()),
        ("cfg(5)|rescale(0.5)", CFG(5) | Rescale(0.5)),
        ("apg(rescale=3)", APG(rescale=3)),
    ],
)
def test_guiders_as_words(text, guider):
    assert parse_guider(text) == guider


def test_prompts_in_a_guider_are_texts_as_they_stand():
    guider = parse_guider("cfg(3, reference=confusion([a|b; 7; cosine; none], emoji-clip))|rescale")
    assert guider.terms[0].reference.prompts == ("a|b", 7, "cosine", "none")
    assert len(guider.posts) == 1
    deep = "cfg(" + "[" * 3000
    with pytest.raises(ValueError, match="guider"):
        parse_guider(deep + "]" * 3000 + ")")
    for wrong in ("shares=none", "shares=[]"):
        with pytest.raises(ValueError, match="shares: expected"):
            parse_guider("fdg", None, [wrong])


def test_what_a_person_types_wrong_is_told_back():
    for text, said in (
        ("cfg(5", r"as many \) as \("),
        ("cgf", "did you mean cfg"),
        ("cfg(3, reference=linearag)", "coefficients: expected a value, got none"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_guider(text)
    with pytest.raises(ValueError, match="inside its method"):
        APG(8) | Interval(5)
