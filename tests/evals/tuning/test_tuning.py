"""What is ours of a search: directions, refusals, going on, and the look at unseen pictures."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tiny
from guiders import APG, CFG, Interval
from guiders.evals import Figure, Plan, Request, Tuning, tune
from guiders.evals.metrics.bootstrap import Estimate
from guiders.evals.runs.registry import Wanted
from guiders.evals.tuning.objective import Goal
from guiders.evals.tuning.page import alike, markdown, rows, verdict
from guiders.evals.tuning.search import search
from guiders.guidance.engine.finite import NotFiniteError
from guiders.pipelines.generation.settings import Settings
from guiders.pipelines.language.ranges import parse_space

pytest.importorskip("optuna")


BOWL = "apg(scale=2..16, eta=0..1)"
LOWER, HIGHER = Goal(Wanted("fd"), "lower"), Goal(Wanted("class"), "higher")


def bowl(guider):
    """Least, 1, at a scale of 5 and an eta of 0.7."""
    return 1 + (guider.when.scale - 5) ** 2 + 9 * (guider.eta - 0.7) ** 2


def measure(figure, seen=None):
    def one(guider):
        if seen is not None:
            seen.append(guider)
        return Figure(figure(guider)), 2.0

    return one


@pytest.mark.parametrize(
    ("goal", "figure", "best"), [(LOWER, bowl, 1), (HIGHER, lambda guider: -bowl(guider), -1)]
)
def test_a_known_optimum_is_found_whichever_way_is_better(tmp_path, goal, figure, best):
    trials = search(parse_space(BOWL), goal, measure(figure), 20, tmp_path / "j.log")
    assert len(trials) == 20
    found = min(trials, key=lambda trial: trial.loss)
    assert found.estimate.value == pytest.approx(best, abs=0.1)
    assert found.values == pytest.approx((5, 0.7), abs=0.3)


def test_a_target_is_met_from_both_sides(tmp_path):
    goal, space = Goal(Wanted("saturation"), target=5.0), parse_space("cfg")
    trials = search(space, goal, measure(lambda g: g.when.scale), 10, tmp_path / "j.log")
    assert min(trial.loss for trial in trials) < 0.02


def test_it_begins_with_the_defaults_and_then_the_middle(tmp_path):
    trials = search(parse_space(BOWL), LOWER, measure(bowl), 2, tmp_path / "j.log")
    assert [trial.values for trial in trials] == [(10, 0), (9, 0.5)]


@pytest.mark.parametrize("text", [BOWL, "cfg+interval(0..8, 1..20)"])
def test_a_search_that_is_stopped_goes_on_as_if_it_had_not(tmp_path, text):
    def figure(guider):
        return sum(guider.to_dict()["scale"].values()) if "interval" in text else bowl(guider)

    def figured(guider):
        data = guider.to_dict()
        inner = data["scale"] if isinstance(data["scale"], dict) else data
        return sum(value for value in inner.values() if isinstance(value, float))

    space, seen, again = parse_space(text), [], []
    whole = search(space, LOWER, measure(figured, seen), 14, tmp_path / "whole.log")

    def killed(after):
        left = iter(range(after))

        def one(guider):
            if next(left, None) is None:
                raise KeyboardInterrupt
            again.append(guider)
            return Figure(figured(guider)), 2.0

        return one

    for after in (0, 1, 5, 3):  # in the midst of a trial
        with pytest.raises(KeyboardInterrupt):
            search(space, LOWER, killed(after), 14, tmp_path / "parts.log")
    search(space, LOWER, measure(figured, again), 11, tmp_path / "parts.log")  # a smaller budget
    assert len(again) == 11
    parts = search(space, LOWER, measure(figured, again), 14, tmp_path / "parts.log")
    assert parts == whole
    assert again == seen  # bit for bit, and nothing twice
    other = search(space, LOWER, measure(figured), 14, tmp_path / "other.log", seed=1)
    assert [trial.values for trial in other] != [trial.values for trial in whole]


def test_what_is_refused_does_not_count_and_is_left(tmp_path):
    def figure(guider):
        gate = guider.when
        assert gate.low < gate.high
        return (gate.low - 3) ** 2 + (gate.high - 4) ** 2

    told = []
    space = parse_space("cfg(3)+interval(0..8, 1..20)")
    one, journal = measure(figure), tmp_path / "j.log"
    trials = search(space, LOWER, one, 16, journal, after=lambda *so_far: told.append(so_far))
    assert len(trials) == 16
    refused = told[-1][1]
    assert refused
    assert all("expected a number above low" in reason for reason in refused)
    assert min(trial.loss for trial in trials) < 1  # it lies near the edge
    assert [len(drawn) for drawn, _ in told] == sorted(len(drawn) for drawn, _ in told)
    assert len({trial.values for trial in trials}) == 16


def test_intents_are_drawn_as_numbers_or_refused(tmp_path):
    def explicit(guider):
        if guider.when.keep > 0.9:
            raise ValueError("no interval keeps that")
        return CFG(Interval(7.5, low=1 - guider.when.keep))

    seen, told = [], []
    space, goal = parse_space("cfg+interval(keep=0.5..0.99)"), Goal(Wanted("clip"), "higher")
    search(space, goal, measure(lambda guider: -guider.when.low, seen), 8, tmp_path / "j.log",
           after=lambda *so_far: told.append(so_far), explicit=explicit)  # fmt: skip
    assert len(seen) == 8
    assert min(guider.when.low for guider in seen) < 0.15
    assert set(told[-1][1]) == {"no interval keeps that"}


def test_numbers_that_are_not_finite_are_refused_settings(tmp_path):
    def one(guider):
        if guider.when.scale > 8:
            raise NotFiniteError("eps has NaN")
        return Figure(math.nan if guider.when.scale > 6 else guider.when.scale), 2.0

    told = []
    search(parse_space("cfg"), HIGHER, one, 5, tmp_path / "j.log", after=lambda *s: told.append(s))
    drawn, refused = told[-1]
    assert max(trial.estimate.value for trial in drawn) <= 6
    assert {"class is nan"} <= set(refused) <= {"class is nan", "eps has NaN"}


def test_where_everything_is_refused_it_gives_up(tmp_path):
    def one(guider):
        raise NotFiniteError("eps has NaN")

    with pytest.raises(ValueError, match=r"100 combinations in a row were refused, .* eps has NaN"):
        search(parse_space("cfg"), LOWER, one, 5, tmp_path / "j.log")


def test_an_error_that_is_not_the_settings_is_one(tmp_path):
    def one(guider):
        raise ValueError("prompts are too long")

    with pytest.raises(ValueError, match="prompts are too long"):
        search(parse_space("cfg"), LOWER, one, 5, tmp_path / "j.log")


def test_a_damaged_journal_is_refused_in_words(tmp_path):
    (tmp_path / "j.log").write_text("not a journal\n{}\n")
    with pytest.raises(ValueError, match=r"j\.log cannot be read"):
        search(parse_space("cfg"), LOWER, measure(bowl), 5, tmp_path / "j.log")


@pytest.mark.parametrize("lost", [5, 60, 400, 900])
def test_a_torn_journal_is_gone_on_with(tmp_path, lost):
    journal = tmp_path / "j.log"
    whole = search(parse_space(BOWL), LOWER, measure(bowl), 6, journal)
    journal.write_bytes(journal.read_bytes()[:-lost])
    assert search(parse_space(BOWL), LOWER, measure(bowl), 6, journal) == whole


def test_whole_numbers_stay_whole(tmp_path):
    space = parse_space("cfg(3)|zeroinit(0..9)")
    figure = measure(lambda guider: (guider.prepares[0].steps - 6) ** 2)
    trials = search(space, LOWER, figure, 50, tmp_path / "j.log")
    # each once, and then it ends
    assert sorted(trial.values[0] for trial in trials) == list(range(10))


@pytest.fixture
def request_(folder, tmp_path):
    texts = ["red heart", "blue car", "cat", "green apple", "moon", "fish", "bread"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(texts))
    settings = Settings("", CFG(1).to_dict(), model=str(folder), num_inference_steps=2, seed=7)
    return Request(Plan(settings, str(prompts), 3), count=3, metrics=("contrast",))


def test_the_check_is_of_pictures_that_the_search_has_not_seen(request_, tmp_path):
    loads = []

    def load():
        loads.append(1)
        return tiny.sd("ddim")

    out, texts = tmp_path / "out", []
    found = tune(request_, "apg(2..12)", out, load, 3, direction="higher",
                 after=lambda tuning: texts.append(markdown(tuning)))  # fmt: skip
    assert found.improved
    assert len(texts) == 4
    assert "Not checked yet" in texts[2]
    start, best = (json.loads((f / "manifest.json").read_text()) for f in found.check.folders)
    assert start["request"]["plan"]["settings"]["guider"] == APG(10).to_dict()
    assert best["request"]["plan"]["settings"]["guider"] == found.guider(found.best).to_dict()
    for manifest in (start, best):
        assert manifest["seeds"] == [10, 12]  # after 7, 8 and 9
        assert manifest["pictures"] == 3
    lines = (out / "check" / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["green apple", "moon", "fish"]
    assert found.check.new == 3
    for run in (out / "runs").iterdir():
        assert json.loads((run / "manifest.json").read_text())["seeds"] == [7, 9]
    assert found.check.difference.value == pytest.approx(
        found.check.best.value - found.check.start.value
    )

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    assert len(before) == (3 + 2) * 3
    again = tune(request_, "apg(2..12)", out, load, 3, direction="higher")
    assert again.trials == found.trials
    for one, other in zip(again.trials, found.trials, strict=True):
        assert (one.figure.draws == other.figure.draws).all()
    assert markdown(again) == markdown(found)
    assert again.check.difference == found.check.difference
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.png")} == before

    with pytest.raises(ValueError, match=r"guider is .*; allowed is another folder, or the same"):
        tune(request_, "apg(2..9)", out, load, 3, direction="higher")
    with pytest.raises(ValueError, match="direction is 'higher', and not 'lower'; allowed is anot"):
        tune(request_, "apg(2..12)", out, load, 3, direction="lower")
    with pytest.raises(ValueError, match="pictures is 3, and not 4; allowed is another folder"):
        other = dataclasses.replace(request_, count=4)
        tune(other, "apg(2..12)", out, load, 3, direction="higher")


def test_trials_that_cannot_be_told_from_the_best_are_counted(tmp_path):
    noise = np.random.default_rng(0).normal(size=200)

    def one(guider):  # the figure is the scale, and below 5 a matter of chance
        scale = guider.when.scale
        own = np.roll(noise, int(100 * scale)) if scale < 5 else 0
        return Figure(scale, scale + noise + 9 * own), 2.0

    trials = search(parse_space("cfg"), LOWER, one, 9, tmp_path / "j.log")
    tuning = Tuning(None, parse_space("cfg"), LOWER, 9, {}, lambda guider: guider, trials)
    low = [trial for trial in trials if trial.values[0] < 5]
    assert 1 < len(low) < 9
    assert alike(tuning) >= len(low) - 1
    table = {row[0]: row for row in rows(tuning)}
    assert table[f"{tuning.best.number}"][3] == ""
    other = next(trial for trial in trials[1:] if trial.values[0] > 6)
    gap = other.figure.minus(tuning.best.figure)
    assert table[f"{other.number}"][3].startswith(f"{gap.value:+.2f} ({gap.low:+.2f} to")


def test_scores_of_ones_own(request_, tmp_path, monkeypatch):
    (tmp_path / "mine_to_tune.py").write_text(
        "seen = []\n"
        "def score(pictures, prompts):\n"
        "    assert pictures.shape[:2] == (3, 3)\n"
        "    assert 0 <= pictures.min() < pictures.max() <= 1\n"
        "    seen.append(list(prompts))\n"
        "    return [float(p.mean()) for p in pictures]\n"
        "def short(pictures, prompts):\n"
        "    return [1.0]\n"
        "def fails(pictures, prompts):\n"
        "    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def run(name, out, **more):
        request = dataclasses.replace(request_, metrics=(f"mine_to_tune:{name}",), **more)
        return tune(request, "cfg(2..9)", tmp_path / out, lambda: tiny.sd("ddim"), 2,
                    direction="lower")  # fmt: skip

    found = run("score", "own")
    import mine_to_tune

    assert mine_to_tune.seen[0] == ["red heart", "blue car", "cat"]
    assert 0 < found.best.estimate.value < 1
    assert found.best.estimate.low < found.best.estimate.high
    with pytest.raises(RuntimeError, match=r"gives \[1.0\] for 3 pictures; allowed is a finite"):
        run("short", "short")
    with pytest.raises(RuntimeError, match="fails failed: ZeroDivisionError: division by zero"):
        run("fails", "fails")
    with pytest.raises(ValueError, match="allowed where pictures are kept"):
        run("score", "none", keep=False)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"budget": 0}, "budget: expected a whole number.*, got 0"),
        ({"budget": True}, "budget: expected a whole number.*, got True"),
        ({"guider": "apg(3)"}, "expected a range in place of a number"),
        ({"metrics": ("fd", "nfe")}, "allowed for a search is one"),
    ],
)
def test_nothing_is_claimed_before_all_is_allowed(request_, tmp_path, more, complaint):
    request = dataclasses.replace(request_, metrics=more.get("metrics", request_.metrics))
    with pytest.raises(ValueError, match=complaint):
        tune(request, more.get("guider", "apg"), tmp_path / "out", lambda: tiny.sd("ddim"),
             more.get("budget", 2), direction="" if "metrics" in more else "lower")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_without_optuna_it_says_what_to_install(request_, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(RuntimeError, match=r"optuna is not installed; `pip install 'guiders\[tune"):
        tune(request_, "apg", tmp_path / "out", lambda: tiny.sd("ddim"), 2, direction="lower")


def test_the_start_is_said_to_be_the_best_where_it_is(request_, tmp_path):
    request = dataclasses.replace(request_, metrics=("nfe",))  # the same for all
    found = tune(request, "apg(2..9)", tmp_path / "out", lambda: tiny.sd("ddim"), 2)
    assert not found.improved
    assert found.check is None
    assert not (tmp_path / "out" / "check").exists()
    assert verdict(found)[0] == "Nothing better than the start was found."
    assert found.best.estimate == Estimate(4.0, 4.0, 4.0)
