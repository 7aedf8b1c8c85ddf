"""``guiders evaluate`` and ``guiders compare`` as a person uses them, and misuses them."""

import json

import numpy as np
import pytest
from guiders.commands import main
from PIL import Image


@pytest.fixture
def evaluate(folder, tmp_path):
    """Run ``guiders evaluate`` with the tiny model."""
    (tmp_path / "prompts.txt").write_text("red heart\ncat\n")

    def run(*args, out="out"):
        return main(
            ["evaluate", "--model", str(folder), "--prompts", str(tmp_path / "prompts.txt"),
             "--num-images", "5", "--num-inference-steps", "2", "--batch-size", "3",
             "--threads", "1", "--out", str(tmp_path / out), *map(str, args)]
        )  # fmt: skip

    return run


def test_figures_and_a_manifest(evaluate, tmp_path, capsys):
    assert evaluate("--guider", "apg", "--guidance-scale", 4, "--metrics", "saturation,nfe") == 0
    saturation, nfe, path = capsys.readouterr().out.splitlines()
    assert saturation.startswith("saturation")
    assert nfe.split() == ["evaluations", "per", "image", "4.0"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert str(tmp_path / "out" / "manifest.json") == path
    assert manifest["request"]["plan"]["settings"]["guider"]["scale"] == 4
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 5


def test_the_same_seeds_as_a_baseline(evaluate, tmp_path, capsys):
    assert evaluate("--metrics", "nfe", "--guider", "cfg", out="cfg") == 0
    more = ("--baseline", tmp_path / "cfg", "--metrics", "ssim,psnr")
    assert evaluate("--guider", "cfg", *more, out="again") == 0
    assert "100.00" in capsys.readouterr().out  # the same guider
    assert evaluate("--guider", "none", *more, out="other") == 0
    assert "100.00" not in capsys.readouterr().out
    assert evaluate("--num-images", 9, *more, out="longer") == 2
    assert "holds 5 pictures; needed are 9" in capsys.readouterr().err


def test_a_folder_of_pictures(tmp_path, capsys):
    for number, level in enumerate((100, 200)):
        array = np.full((8, 8 + number, 3), level, np.uint8)
        array[..., 0] = 250
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    command = ["evaluate", "--pictures", str(tmp_path), "--out", str(tmp_path.parent / "out")]
    assert main(command) == 0
    assert capsys.readouterr().out.split()[:2] == ["saturation", "0.400"]
    assert main([*command, "--num-images", "3"]) == 2
    assert "holds 2 pictures; needed are 3" in capsys.readouterr().err
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    assert main(command) == 2
    assert "pictures_sha256" in capsys.readouterr().err  # other pictures, another folder
    assert main([*command[:-1], str(tmp_path.parent / "new")]) == 2
    assert f"picture {tmp_path / '1.png'} cannot be read" in capsys.readouterr().err


def test_another_guider_in_the_same_folder_is_refused_and_nothing_is_lost(
    evaluate, tmp_path, capsys
):
    assert evaluate("--guider", "cfg", "--metrics", "nfe") == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert evaluate("--guider", "apg", "--metrics", "nfe") == 2
    assert "where guider is {'type': 'CFG'" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--metrics", "fdd"], ["metrics", "fdd", "saturation"]),
        (["--metrics", "fd:emoji-clip"], ["reference is missing", "fd:emoji-clip"]),
        (["--metrics", "fd:nothing"], ["network", "nothing", "inception"]),
        (["--metrics", "fd:emoji-clip", "--reference", "nowhere"], ["reference", "nowhere", "npz"]),
        (["--metrics", "ssim"], ["ssim", "baseline"]),
        (["--metrics", "fd,,saturation"], ["metrics is 'fd,,saturation'", "an empty name"]),
        (["--num-images", "1000000000"], ["num_images: expected", "1000000, got 1000000000"]),
        (["--metrics", "class:emoji-classifier"], ["class", "labels", "symbols"]),
        (["--num-images", "1"], ["num_images", "1", "between 2"]),
        (["--num-images", "-3"], ["num_images", "-3"]),
        (["--batch-size", "0"], ["batch_size", "0"]),
        (["--threads", "0"], ["threads", "0"]),
        (["--bootstrap", "-1"], ["bootstrap", "-1"]),
        (["--neighbours", "0"], ["neighbours", "0"]),
        (["--neighbours", "9", "--metrics", "recall:emoji-clip", "--reference", "train"],
         ["neighbours is 9", "5 pictures"]),
        (["--prompts", "nowhere"], ["prompts", "nowhere", "geneval"]),
        (["--prompts", ""], ["prompts: expected a set"]),
        (["--guider", "cfh"], ["guider", "cfh"]),
        (["--from", "nowhere.json"], ["nowhere.json", "cannot be read"]),
        (["--pictures", "nowhere", "--metrics", "saturation"],
         ["num_inference_steps: expected none beside pictures"]),
        (["--baseline", "nowhere", "--metrics", "ssim"], ["nowhere", "0 pictures"]),
    ],
)  # fmt: skip
def test_misuse_is_one_clear_sentence(evaluate, capsys, args, words):
    assert evaluate("--metrics", "saturation", *args) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("guiders: error: ")
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--scales", "1,two"], ["scales", "1,two"]),
        (["--scales", ""], ["scales"]),
        (["--guider", "cfh"], ["guider", "cfh"]),
        (["--guider", "missing.json"], ["missing.json"]),
        (["--metrics", "fdd"], ["metrics", "fdd"]),
    ],
)
def test_misuse_of_compare(folder, tmp_path, capsys, args, words):
    command = ["compare", "--model", str(folder), "--prompts", "geneval", "--out", str(tmp_path)]
    assert main([*command, *args]) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error


def test_scales_of_what_has_none(folder, tmp_path, capsys):
    command = ["compare", "--model", str(folder), "--prompts", "nowhere", "--out", str(tmp_path)]
    for guiders, words in (
        (["none"], "none has no scale"),
        (["cfg", "cfg(5)"], "cfg(5) has its own"),
    ):
        named = [word for one in guiders for word in ("--guider", one)]
        assert main([*command, *named, "--scales", "1,2"]) == 2
        warning = capsys.readouterr().err.splitlines()[0]
        assert warning.startswith("guiders: warning: scales is 1,2")
        assert words in warning
    assert main([*command, "--guider", "none"]) == 2
    assert "scales" not in capsys.readouterr().err


def test_networks_of_a_manifest_run_no_code(evaluate, tmp_path, capsys):
    """A folder with a CLIP is none; a module is."""
    assert evaluate("--metrics", "saturation") == 0
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    np.savez(tmp_path / "real.npz", mu=np.zeros(3), sigma=np.eye(3))
    for metric, words in (
        ("fd:clip:/nowhere", "network /nowhere needs weights"),
        ("fd:sys:exit", "got fd:sys:exit"),
        ("clip:sys:exit", "got clip:sys:exit"),
    ):
        manifest["request"] |= {"metrics": [metric], "reference": str(tmp_path / "real.npz")}
        path.write_text(json.dumps(manifest))
        assert main(["evaluate", "--from", str(path), "--out", str(tmp_path / "again")]) == 2
        assert words in capsys.readouterr().err


def test_a_manifest_of_something_else_is_refused(evaluate, tmp_path, capsys):
    (tmp_path / "m.json").write_text('{"a": 1}')
    assert main(["evaluate", "--from", str(tmp_path / "m.json"), "--out", str(tmp_path / "o")]) == 2
    assert "is no manifest" in capsys.readouterr().err
    assert evaluate("--metrics", "nfe") == 0
    path = tmp_path / "out" / "manifest.json"
    data = json.loads(path.read_text())
    data["model"]["sha256"] = "0" * 16
    path.write_text(json.dumps(data))
    assert main(["evaluate", "--from", str(path), "--out", str(tmp_path / "o")]) == 2
    assert "expected the manifest's sha256 0000000000000000" in capsys.readouterr().err
    (tmp_path / "prompts.txt").write_text("other\nwords\n")
    assert main(["evaluate", "--from", str(path), "--out", str(tmp_path / "o")]) == 2
