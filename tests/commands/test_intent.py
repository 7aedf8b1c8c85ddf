"""Guiders by intent on the command line: profile, advise, generate, grid, evaluate, compare."""

import json
import re
import shlex

import pytest
from guiders import APG, CFG, Adaptive, Guider, Match, Profile
from guiders.commands import main, parser
from guiders.guidance import intents
from guiders.pipelines.generation import png
from guiders.pipelines.language.parse import parse_guider


@pytest.fixture(scope="module")
def known(folder, tmp_path_factory):
    """The profile of the tiny model in a folder, and what the command said."""
    out = tmp_path_factory.mktemp("profile")
    prompts = out / "prompts.txt"
    prompts.write_text("".join(f"{word} {n}\n" for word in ("red", "cat") for n in range(6)))
    flags = ["--model", str(folder), "--num-inference-steps", "5", "--prompts", str(prompts),
             "--num-prompts", "8", "--out", str(out / "p.json"), "--batch-size", "8"]  # fmt: skip
    assert main(["profile", *flags, "--scales", "4"]) == 0
    assert main(["profile", *flags, "--scales", "2,4"]) == 0  # adds to it
    return out / "p.json", flags


def test_a_profile_its_picture_and_advice(known, folder, capsys):
    path, flags = known
    profile = Profile.load(path)
    assert profile.scales == [2, 4]
    assert profile.facts["model"] == folder.name  # no path: it is shared with others
    assert path.with_suffix(".svg").read_text().startswith("<svg")
    assert main(["profile", *flags, "--scales", "2"]) == 0  # there already
    assert "nothing to measure" in capsys.readouterr().out
    assert main(["advise", str(path)]) == 0
    said = capsys.readouterr().out
    assert "5 steps of DDIMScheduler" in said
    assert f"--profile {path}" in said
    assert "Published, not measured here\n- For SD 1.5: Diffusers' default" in said
    commands = [line.split("'")[1] for line in said.splitlines() if "--guider" in line]
    assert commands
    for text in commands:
        parse_guider(text)


def test_advice_of_a_stranger(known, tmp_path, capsys):
    path, _ = known
    data = json.loads(path.read_text())
    data["facts"]["model"] = "x; touch /tmp/oops"
    for effect in data["effects"]:
        effect["colour"] = {}
    other = tmp_path / "a stranger's.json"
    other.write_text(json.dumps(data))
    assert main(["advise", str(other)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "--guider" in line]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[words.index("--model") + 1] == "x; touch /tmp/oops"
        if "save=" in line or "match(" in line or "keep=" in line:
            assert words[words.index("--profile") + 1] == str(other)
        else:  # explicit numbers need none
            assert "--profile" not in words


def test_a_picture_of_somebody_else_is_kept(known, tmp_path, capsys):
    _, flags = known
    (tmp_path / "q.svg").write_text("mine")
    assert main(["profile", *flags, "--out", str(tmp_path / "q.json")]) == 2
    assert "q.svg, which exists" in capsys.readouterr().err
    assert (tmp_path / "q.svg").read_text() == "mine"


def test_pictures_carry_the_numbers(known, folder, tmp_path, capsys):
    path, _ = known
    draw = ["generate", "red", "--model", str(folder), "--num-inference-steps", "5"]
    guider = ["--guider", "apg(match(cfg(3)), rescale=p90)+adaptive(save=0.2)"]
    assert main([*draw, *guider, "--profile", str(path), "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().err
    picture = next((tmp_path / "a").glob("*.png"))
    stored = Guider.from_dict(png.read(picture)["guider"])
    assert not intents(stored)
    assert str(stored) in said  # the plan line
    again = ["generate", "--params-from", str(picture), "--out", str(tmp_path / "b")]
    assert main(again) == 0  # without the profile
    other = next((tmp_path / "b").glob("*.png"))
    assert png.read(other)["guider"] == png.read(picture)["guider"]


def test_a_stored_guider_with_intent(known, folder, tmp_path):
    path, _ = known
    CFG(Adaptive(3, save=0.2)).save(tmp_path / "g.json")
    flags = ["--model", str(folder), "--num-inference-steps", "5", "--profile", str(path),
             "--guider-config", str(tmp_path / "g.json"), "--out", str(tmp_path)]  # fmt: skip
    assert main(["generate", "cat", *flags]) == 0
    stored = png.read(next(tmp_path.glob("*.png")))["guider"]
    assert stored["scale"]["threshold"] is not None
    assert stored["scale"]["save"] is None


def test_grids_and_measurements_are_settled(known, folder, tmp_path, capsys):
    path, _ = known
    shared = ["--model", str(folder), "--num-inference-steps", "5", "--profile", str(path)]
    plain = ["--x", "guider=cfg(2);cfg(3)", "--out", str(tmp_path / "plain.png")]
    assert main(["grid", "red", *shared, *plain]) == 0
    assert "profile has no effect" in capsys.readouterr().err
    axis = "guider=cfg(3);apg(match(3));cfg(3)+interval(keep=0.8)"
    assert main(["grid", "red", *shared, "--x", axis, "--out", str(tmp_path / "g.png")]) == 0
    from PIL import Image

    cells = json.loads(Image.open(tmp_path / "g.png").info["guiders-grid"])
    assert not intents([Guider.from_dict(cell["guider"]) for cell in cells])
    prompts = tmp_path / "p.txt"
    prompts.write_text("red\ncat\n")
    measure = [*shared, "--prompts", str(prompts), "--num-images", "2", "--metrics", "contrast,nfe"]
    out = tmp_path / "e"
    text = "cfg(3)+adaptive(save=0.2)"
    assert main(["evaluate", *measure, "--guider", text, "--out", str(out)]) == 0
    stored = json.loads((out / "manifest.json").read_text())["request"]["plan"]["settings"]
    assert not intents(Guider.from_dict(stored["guider"]))
    out = tmp_path / "c"
    both = ["--guider", "cfg", "--guider", "apg(match(4))", "--guider", "apg+adaptive(save=0.2)"]
    assert main(["compare", *measure, *both, "--scales", "2,4", "--out", str(out)]) == 0
    data = json.loads((out / "results.json").read_text())
    assert "apg(match(4))" in json.dumps(data)


def test_without_a_profile(folder, tmp_path, capsys):
    shared = ["--model", str(folder), "--num-inference-steps", "5", "--out", str(tmp_path)]
    assert main(["generate", "red", *shared, "--guider", "cfg+adaptive(save=0.2)"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Adaptive save=0.2" in said
    assert "guiders profile --model" in said
    assert "--num-inference-steps 5" in said
    command = shlex.split(said.partition("`guiders ")[2].partition("`")[0])
    args = parser().parse_args(command)
    assert args.model == str(folder)
    assert args.prompts
    assert not list(tmp_path.glob("*.png"))


def test_misuse(known, folder, tmp_path, capsys):
    path, flags = known
    shared = ["--model", str(folder), "--num-inference-steps", "5", "--out", str(tmp_path)]
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    for args, words in (
        (["generate", "red", *shared, "--guider", "cfg+adaptive(save=0.2)", "--profile", str(bad)],
         "bad.json"),
        (["generate", "red", *shared, "--guider", "cfg+adaptive(save=0.7)"], "got 0.7"),
        (["generate", "red", *shared, "--guider", "apg(rescale=p900)"], "got 'p900'"),
        (["generate", "red", *shared, "--guider", "apg(match(cfg(3)+x))"], "Match"),
        (["generate", "red", "--num-inference-steps", "4", "--model", str(folder), "--guider",
          "apg(match(3))", "--profile", str(path), "--out", str(tmp_path)], "noise levels"),
        (["profile", *flags, "--num-prompts", "7"], "num_prompts: expected .*, got 7"),
        (["profile", *flags, "--num-prompts", "80"], "num_prompts: expected .*, got 80"),
        (["profile", *flags, "--scales", "much"], "scales: expected .*, got 'much'"),
        (["profile", *flags, "--scales", "0.5"], "scales are"),
        (["profile", *flags, "--guider", "apg+rescale"], "guider: expected .*, got 'apg.rescale'"),
        (["profile", *flags, "--guider", "tcfg"], "guiders have TCFG"),
        (["profile", *flags, "--skip", "sada"], "skip"),
        (["profile", *flags, "--seed", "3", "--scales", "3"], "seed is 3"),
        (["profile", *flags, "--out", str(tmp_path / "p.txt")], "out: expected a .json file"),
        (["profile", *flags, "--out", str(bad)], "bad.json"),
        (["advise", str(tmp_path / "none.json")], "none.json"),
    ):  # fmt: skip
        assert main(args) == 2, args
        said = capsys.readouterr().err
        assert re.search(words, said), (args, said)
        assert "Traceback" not in said
    assert main(["generate", "red", *shared, "--profile", str(path)]) == 0
    assert "profile has no effect" in capsys.readouterr().err


def test_words():
    assert parse_guider("apg(match(cfg(7.5)))") == APG(Match(CFG(7.5)))
    assert parse_guider("apg(match(7.5), rescale=p90)") == APG(Match(7.5), rescale="p90")
    assert parse_guider("cfg(3)+adaptive(save=0.25)") == CFG(Adaptive(3, save=0.25))
    assert parse_guider("cfg(match(apg(8)), reference=weak-model(emoji-weak))").when == Match(
        APG(8)
    )


def test_a_grid_finds_out_before_it_draws(known, folder, tmp_path, capsys, monkeypatch):
    from guiders.commands import grid

    path, _ = known
    monkeypatch.setattr(grid, "draw", lambda *_: pytest.fail("something was drawn"))
    args = ["grid", "red", "--model", str(folder), "--x", "guider=cfg(3);apg(match(3))", "--y",
            "steps=5,6", "--profile", str(path), "--out", str(tmp_path / "g.png")]  # fmt: skip
    assert main(args) == 2
    assert "noise levels are 6 evaluations" in capsys.readouterr().err


def test_all_of_a_short_file(folder, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"red {n}\n" for n in range(9)))
    flags = ["--model", str(folder), "--num-inference-steps", "2", "--prompts", str(prompts)]
    assert main(["profile", *flags, "--out", str(tmp_path / "p.json")]) == 0
    assert "plain runs of 9 prompts" in capsys.readouterr().out
    assert Profile.load(tmp_path / "p.json").facts["prompts"] == 9


def test_another_scheduler_is_said(known, folder, tmp_path, capsys):
    path, _ = known
    flags = ["--model", str(folder), "--num-inference-steps", "5", "--out", str(tmp_path)]
    guider = ["--guider", "apg(match(3))", "--profile", str(path), "--scheduler", "ddpm"]
    assert main(["generate", "red", *flags, *guider]) == 0
    assert "the scheduler of the run is 'DDPMScheduler'" in capsys.readouterr().err
