"""``guiders tune`` from the command line to the page, on the model that ships."""

import json
import re

import browser
import pytest
from guiders import Guider
from guiders.commands import main

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def command():
    def run(out, *more):
        return main(
            ["tune", "--guider", "apg(scale=1.5..10, eta=0..1)", "--budget", "3",
             "--num-images", "12", "--batch-size", "12", "--num-inference-steps", "4",
             "--bootstrap", "50", "--out", str(out), *more]
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def out(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune") / "out"
    assert command(folder) == 0
    return folder


def test_the_table_the_verdict_and_the_best(command, out, capsys):
    assert command(out) == 0  # nothing is drawn
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == str(out / "tune.html")
    assert (out / "table.md").read_text() in text
    assert "Frechet distance (emoji-clip), lower is better" in text
    results = json.loads((out / "results.json").read_text())
    values = [trial["value"] for trial in results["trials"]]
    assert values == sorted(values)
    assert len(values) == 3
    best = results["trials"][0]
    assert Guider.load(out / "best.json") == Guider.from_dict(best["guider"])
    assert best["trial"] != 0  # else there was nothing to check
    low, high = results["check"]["difference"][1:]
    said = {"holds": high < 0, "is worse": low > 0, "within chance": low <= 0 <= high}
    assert said[results["check"]["verdict"]]
    assert results["check"]["seeds"] == [12, 23]


def test_a_larger_budget_goes_on(command, out, capsys):
    before = {p.name for p in (out / "runs").iterdir()}
    assert command(out, "--budget", "4") == 0
    assert len({p.name for p in (out / "runs").iterdir()} - before) == 1
    assert "4 trials;" in capsys.readouterr().out


@browser.needed
def test_the_page_in_a_browser(out, tmp_path):
    found = browser.inspect(out / "tune.html", tmp_path)
    assert found["errors"] == found["broken"] == found["fetched"] == []
    assert found["charts"] == 3  # over scale, eta and the trials
    assert found["images"] == 20  # ten of the start, ten of the best
    assert found["wider"] <= 0
    assert "<script" not in (out / "tune.html").read_text()


def test_misuse_is_answered_in_a_sentence(command, out, tmp_path, capsys):
    for words, complaint in (
        (("--guider", "apg(9..2)"), "the range LOW..HIGH, .*, got '9..2'"),
        (("--metric", "saturation"), "needed is a direction"),
        (("--metric", "nothing"), "metric is 'nothing'; allowed is one of fd,"),
        (("--budget", "0"), "budget: expected .*, got 0"),
        (("--reference", "nowhere"), "reference is 'nowhere'"),
    ):
        assert command(tmp_path / "new", *words) == 2
        assert re.search(complaint, capsys.readouterr().err)
    assert list((tmp_path / "new").iterdir()) == []
    assert command(out, "--seed", "1") == 2
    assert "seed is 0, and not 1; allowed is another folder" in capsys.readouterr().err
