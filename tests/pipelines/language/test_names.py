"""Names that people know lead to those of this library, and classes of one's own are words, too."""

import re

import pytest
from guiders import CFG, Constant, Custom, Guider, Interval
from guiders.pipelines.language import names
from guiders.pipelines.language.names import ELSEWHERE, hyphenated, written_here
from guiders.pipelines.language.parse import parse_guider

pytestmark = pytest.mark.quick

FILLED = {
    "MODEL": "emoji-weak", "RADIUS": "3", "LOW, HIGH": "0.3, 5", "PROMPT; PROMPT": "a; b",
    "REWARD": "jpeg",
}  # fmt: skip
MINE = """
from dataclasses import dataclass
from guiders.guidance import Gate, Negative, Post, Reference, Scale, ScaleLike, Term, integer


@dataclass(frozen=True)
class Thirds(Term):
    scale: ScaleLike = 3.0
    parts: int = integer(3, low=1)
    reference: Reference = Negative()


@dataclass(frozen=True)
class Other(Reference):
    pass


@dataclass(frozen=True)
class Level(Scale):
    top: float = 2.0


@dataclass(frozen=True)
class Never(Gate):
    scale: ScaleLike = 1.0


@dataclass(frozen=True)
class Same(Post):
    pass


class Bare(Term):
    scale: ScaleLike = 3.0


def half(step):
    return 0.5
"""


def known():
    kinds = (
        names.term_names(), names.gate_names(), names.transform_names(), names.reference_names(),
        names.schedule_names(),
    )  # fmt: skip
    return {name: kind for found in kinds for name, kind in found.items()}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_suggested_for_a_name_of_others_can_be_read(name):
    text = re.search(r"is written (.*) here", written_here(name, "0.6"))[1]
    for word, value in FILLED.items():
        text = text.replace(word, value)
    assert parse_guider(text).terms
    assert names.plain(name) not in known()


def test_a_scale_that_counts_from_zero_is_one_more_here():
    for text, scale in (("pag(3)", 4.0), ("slg(2.8)", 3.8), ("autoguidance(2)", 2.0)):
        with pytest.raises(ValueError, match="is written cfg") as caught:
            parse_guider(text)
        words = re.search(r"is written (.*) here", str(caught.value))[1]
        assert parse_guider(words.replace("MODEL", "emoji-weak")).terms[0].scale == Constant(scale)


def test_names_are_read_as_they_are_printed():
    for name, kind in known().items():
        assert names.plain(hyphenated(kind)) == name
    assert hyphenated(type(parse_guider("cfgplusplus2m"))) == "cfg-plus-plus-2m"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "words.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)


def test_classes_of_ones_own_stand_where_a_name_may(mine):
    term = parse_guider("words.py:Thirds(4, parts=2)+interval(0.3, 5)")
    assert type(term).__name__ == "Thirds"
    assert (term.scale, term.parts) == (Interval(4, 0.3, 5), 2)
    guider = parse_guider(
        "cfg(words.py:Level(5), reference=words.py:Other)+words.py:Never|words.py:Same()"
    )
    (term,), (post,) = guider.terms, guider.posts
    kinds = [type(one).__name__ for one in (term, term.scale, term.scale.inner, term.reference)]
    assert [*kinds, type(post).__name__] == ["CFG", "Never", "Level", "Other", "Same"]
    guider = parse_guider("cfg(./words.py:half)")
    assert isinstance(guider.scale, Custom)
    assert Guider.from_dict(guider.to_dict()) == guider  # it was named, and has run
    assert parse_guider("words.py:Thirds", 6.0).scale == Constant(6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("words.py:Level(2)", r"inside a method, cfg\(words.py:Level\(2\)\)"),
        ("cfg+words.py:Other", r"inside a method, cfg\(SCALE, reference=words.py:Other\)"),
        ("cfg(reference=words.py:Level)", "reference: expected a Reference"),
        ("words.py:Thirds(parts=0.5)", "parts: expected a whole number of at least 1, got 0.5"),
        ("words.py:Bare(3)", r"class Bare: expected the decorator @dataclass\(frozen=True\)"),
        ("words.py:half", "expected a class derived from Term"),
        ("words.py:Missing", "can be imported, got 'words.py:Missing'"),
        ("nowhere.py:Thirds", "can be imported, got 'nowhere.py:Thirds'"),
        ("cfg(linear)+linear(1, 9)", r"the scale of a method: cfg\(linear\(1, 9\)\)"),
        ("weak-model(emoji-weak)", r"cfg\(SCALE, reference=weak-model\(...\)\)"),
    ],
)
def test_what_stands_in_the_wrong_place_is_said(mine, text, words):
    with pytest.raises(ValueError, match=words):
        parse_guider(text)


def test_a_file_is_run_once(mine):
    one, other = (parse_guider("words.py:Thirds(4)") for _ in range(2))
    assert one == other
    assert one != CFG(4)
