"""``guiders generate`` as a person uses it, and misuses it."""

import errno
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from guiders import APG, CFG, Adaptive, Interval, Linear, Rescale
from guiders.commands import main
from guiders.pipelines.generation import png
from guiders.pipelines.generation.vocabulary import unknown_words
from PIL import Image
from safetensors.torch import save_file


def pictures(out):
    return sorted(Path(out).glob("*.png"))


@pytest.fixture
def draw(folder, tmp_path):
    """Run ``guiders generate`` with the tiny model; returns its pictures."""

    def run(*args, out="out", code=0):
        assert main(["generate", "--model", str(folder), "--num-inference-steps", "3",
                     "--out", str(tmp_path / out), *map(str, args)]) == code  # fmt: skip
        return pictures(tmp_path / out)

    return run


def test_pictures_with_their_settings_inside(draw, capsys):
    flags = "--guider apg --guidance-scale 8 --guider-arg eta=0.5 --seed 3 --num-images 3"
    made = draw("red heart", *flags.split(), "--negative-prompt", "cat", "--scheduler", "euler")
    assert [path.name for path in made] == [f"{i:05d}-red-heart-{3 + i}.png" for i in range(3)]
    assert capsys.readouterr().out.count("6 evaluations") == 3
    with Image.open(made[1]) as picture:
        assert picture.size == (16, 16)
        text = picture.info["parameters"].splitlines()
    assert text[0] == "red heart"
    assert text[1] == "Negative prompt: cat"
    assert text[2].startswith("Steps: 3, Sampler: EulerDiscreteScheduler, Seed: 4, Size: 16x16")
    assert text[2].endswith("CFG scale: 8.0")
    settings = png.read(made[1])
    assert settings["guider"] == APG(8, eta=0.5).to_dict()
    assert settings["seed"] == 4


def test_a_picture_does_not_depend_on_its_neighbours(draw):
    """In the same place of a batch of the same size: nothing of one row reaches another."""
    beside_red = draw("red", "cat", "--num-images", 2, out="a")
    beside_dog = draw("dog", "cat", "--num-images", 2, out="b")
    assert Image.open(beside_red[3]).tobytes() == Image.open(beside_dog[3]).tobytes()
    assert Image.open(beside_red[1]).tobytes() != Image.open(beside_dog[1]).tobytes()


def test_a_picture_alone_is_that_of_a_batch_up_to_the_rounding_of_the_kernels(draw):
    """Matrix products and convolutions of one row take other kernels than those of several."""
    together = draw("red", "cat", "--num-images", 2, out="a")
    alone = draw("cat", "--seed", 1, out="b")
    a, b = (np.asarray(Image.open(path), dtype=int) for path in (together[3], alone[0]))
    assert abs(a - b).max() <= 1


def test_nothing_is_overwritten(draw):
    first = draw("red")
    assert [p.name for p in draw("red")] == [first[0].name, "00001-red-0.png"]


def test_settings_from_a_picture(draw):
    old = draw(
        "red heart", "--guider", "apg+adaptive(0.9)", "--guidance-scale", 8, "--seed", 5, out="a"
    )
    again = draw("--params-from", old[0], out="b")
    assert Image.open(again[0]).tobytes() == Image.open(old[0]).tobytes()
    changed = draw("cat", "--params-from", old[0], "--guidance-scale", 3, out="c")
    settings = png.read(changed[0])
    assert settings["prompt"] == "cat"
    assert settings["seed"] == 5
    assert settings["guider"] == APG(Adaptive(3, threshold=0.9)).to_dict()


def test_settings_from_another_tools_picture(draw, tmp_path):
    text = png.PngImagePlugin.PngInfo()
    text.add_text(
        "parameters",
        "red heart, noto\nNegative prompt: cat\nSteps: 4, Sampler: Euler a, CFG scale: 6.5, "
        'Seed: 9, Model: "a, b"',
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png", pnginfo=text)
    settings = png.read(
        draw("--params-from", tmp_path / "other.png", "--num-inference-steps", 2)[0]
    )
    assert settings["prompt"] == "red heart, noto"
    assert settings["negative_prompt"] == "cat"
    assert (settings["seed"], settings["num_inference_steps"]) == (9, 2)
    assert settings["guider"] == CFG(6.5).to_dict()


def test_guiders_from_json_and_from_words(draw, tmp_path):
    guider = APG(Linear(1, 9)) + CFG(2) | Rescale(0.4)
    guider.save(tmp_path / "g.json")
    assert (
        png.read(draw("red", "--guider-config", tmp_path / "g.json")[0])["guider"]
        == guider.to_dict()
    )
    made = draw("red", "--guider", "cfg", "--interval", 0.3, 5, "--adaptive", 0.95, out="b")
    expected = CFG(Adaptive(Interval(7.5, low=0.3, high=5), threshold=0.95))
    assert png.read(made[0])["guider"] == expected.to_dict()


def test_unknown_words_are_named_with_near_ones(draw, capsys, folder):
    draw("red hart, noto style")
    assert 'never seen "hart" (near: heart)' in capsys.readouterr().err
    assert unknown_words("a red zebra", folder) == {"a": [], "zebra": []}
    assert unknown_words("a red zebra", "somewhere/else") == {}


def test_a_negative_prompt_without_effect(draw, capsys):
    draw("red", "--negative-prompt", "cat", "--guider", "none")
    assert "negative_prompt has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["prompt: expected at least one"]),
        (["x", "--guider", "cfh"], ["guider", "cfh", "did you mean cfg?"]),
        (["x", "--guider", "adaptive"], ["guider", "at least one of apg, cfg"]),
        (["x", "--guider", "apg", "--guider-arg", "etta=1"], ["APG", "etta", "momentum"]),
        (["x", "--guider", "apg(eta=-1)"], ["APG", "eta", "-1"]),
        (["x", "--guider", "apg", "--guidance-scale", "-1"], ["scale", "-1"]),
        (["x", "--guidance-scale", "much"], ["guidance-scale", "much"]),
        (["x", "--model", "nowhere"], ["model", "nowhere", "emoji"]),
        (["x", "--model", "/etc"], ["model", "/etc"]),
        (["x", "--scheduler", "magic"], ["scheduler", "magic", "ddim"]),
        (["x", "--dtype", "int8"], ["dtype", "int8", "float32"]),
        (["x", "--device", "abacus"], ["device", "abacus"]),
        (["x", "--device", "meta"], ["device", "meta"]),
        (["x", "--height", "0"], ["height", "0"]),
        (["x", "--out", "/etc/hostname/sub"], ["out", "/etc/hostname/sub"]),
        (["\udc80"], ["prompt", "text"]),
        (["x", "--guider", "none", "--guidance-scale", "8"], ["guidance_scale", "8", "none"]),
        (["x", "--guider", "none", "--guider-arg", "eta=3"], ["guider_arg", "eta=3"]),
        (["x", "--guider", "none", "--adaptive", "0.9"], ["adaptive", "0.9"]),
        (["x", "--out", "one.png"], ["out", "one.png", "folder"]),
        (["x", "--guider", "none+rescale"], ["'none'", "alone"]),
        (["x", "--guider", "cfg(3)", "--guidance-scale", "8"], ["scale", "one value", "3", "8"]),
        (["x", "--guider-arg", "scale=3", "--guidance-scale", "8"], ["scale", "one value"]),
        (["x", "--guider-arg", "3"], ["guider_arg", "'3'", "KEY=VALUE"]),
        (["x", "--guider", "cfg++(0.6)"], ["cfg++ is written cfg(cfg-plus-plus(0.6)) here"]),
        (["x", "--guider", "apg(eta=.1,eta=.2)"], ["eta", "one value"]),
        (["x", "--guider", "cfg+interval(scale=3)"], ["Interval", "scale", "low, high"]),
        (["x", "--num-inference-steps", "0"], ["num_inference_steps", "0"]),
        (["x", "--num-images", "0"], ["num_images", "0"]),
        (["x", "--batch-size", "0"], ["batch_size", "0"]),
        (["x", "--seed", "-1"], ["seed", "-1"]),
        (["x", "--interval", "5", "1"], ["Interval", "high", "1"]),
        (["x", "--params-from", "/etc/hostname"], ["params-from", "/etc/hostname"]),
        (["x", "--guider-config", "/nowhere.json"], ["/nowhere.json"]),
        (["x", "--guider-config", "/nowhere.json", "--guider", "cfg"], ["--guider-config"]),
        (["x", "--width", "13"], ["13"]),
        (
            [
                "x",
                "--width",
                "16384",
                "--height",
                "16384",
                "--batch-size",
                "99",
                "--num-images",
                "99",
            ],
            ["got 16384 and 16384", "the decoder alone takes", "GB of cpu"],
        ),
        (["x", "--num-images", "1000000000"], ["num_images: expected", "1000000, got 1000000000"]),
        (["x", "y", "--num-images", "1000000"], ["num_images: expected", "500000, got 1000000"]),
        (
            ["x", "--seed", str(2**63 - 1), "--num-images", "2"],
            ["seed: expected", "9223372036854775807, got 9223372036854775808"],
        ),
        (["x", "--threads", "0"], ["threads: expected", "got 0"]),
        (["x", "--model", "/etc/hostname"], ["model: expected", "got the file '/etc/hostname'"]),
        (["x", "--lora", "/etc"], ["lora: expected", ".safetensors", "got '/etc'"]),
        (["x", "--steps", "8"], ["--steps 8", "did you mean --num-inference-steps?"]),
        (["x", "--guidance-scal", "8", "--sead", "3"], ["--sead 3", "did you mean --seed?"]),
        (
            ["x", "--guider", "pag(3)"],
            ["pag is written cfg(4, reference=perturbed-attention()) here"],
        ),
        (["x", "--guider", "autoguidance(2)"], ["cfg(2, reference=weak-model(MODEL))"]),
        (["x", "--guider", "weak-model(emoji-weak)"], ["cfg(SCALE, reference=weak-model(...))"]),
        (
            ["x", "--guider", "cfg(3, reference=pag)"],
            ["got 'pag'", "perturbed-attention()", "one of adapter-off, confusion"],
        ),
        (["x", "--guider", "APG(Adaptive(8))"], ["apg(8)+adaptive"]),
        (["x", "--guider", "cfg(interval(8, 0, 3))"], ["cfg(8)+interval(0, 3)"]),
        (
            ["x", "--guider", "apg(norm_threshold=2)"],
            ["in place of norm_threshold use rescale"],
        ),
        (
            ["x", "--guider-arg", "guidance_scale=2"],
            ["in place of guidance_scale use scale"],
        ),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_two(
    args, words, capsys, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if "--model" not in args:
        args = [*args, "--model", str(folder)]
    try:
        code = main(["generate", *args])
    except SystemExit as exit:
        code = exit.code
    said = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in said
    for word in words:
        assert word in said.splitlines()[-1]


class Evil:
    """A pickle that makes a file where it is read as Python does."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("damage", ["evil", "torn", "empty", "of something else"])
@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_weights_that_are_damaged_get_one_sentence_and_run_nothing(
    part, damage, folder, tmp_path, capsys
):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    (weights,) = (model / part).glob("*.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    names = {"text_encoder": "pytorch_model.bin", "unet": "diffusion_pytorch_model.bin"}
    path = model / part / names[part]
    if damage == "evil":
        torch.save({"weight": Evil(tmp_path / "owned")}, path)
    elif damage == "torn":
        path.write_bytes(content[:1000])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(pickle.dumps(["no", "weights"]))
    assert main(["generate", "x", "--model", str(model), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("guiders: error: model: expected one of")
    assert "that can be read, got" in said[-1]
    assert "Traceback" not in "".join(said)
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_leaves_no_picture_and_names_it(draw, tmp_path, monkeypatch, capsys):
    def full(self, file, *args, **kwargs):
        file.write(b"PNG")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    assert draw("red", code=1) == []
    path = tmp_path / "out" / "00000-red-0.png"
    said = capsys.readouterr().err.splitlines()[-1]
    reason = "No space left on device"
    assert said == f"guiders: error: {path} cannot be written ({reason}); what is there is kept"
    assert list((tmp_path / "out").iterdir()) == []


def test_pictures_do_not_depend_on_the_threads_there_are(folder, tmp_path, monkeypatch):
    seen, command = set(), ["generate", "red", "--model", str(folder), "--num-inference-steps", "1"]
    monkeypatch.setattr(torch, "set_num_threads", seen.add)
    assert main([*command, "--out", str(tmp_path)]) == 0
    before = torch.get_num_threads()
    assert seen == {1, before}
    assert main([*command, "--threads", "3", "--out", str(tmp_path)]) == 0
    assert seen == {1, 3, before}


def test_a_lora(draw, folder, tmp_path, capsys):
    from guiders.pipelines.align import Adapter
    from guiders.pipelines.generation.load import load_pipeline

    pipe = load_pipeline(str(folder), device="cpu")
    adapter = Adapter(pipe)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.fill_(0.3)
    adapter.save(tmp_path / "lora")
    plain = draw("red", out="plain")[0]
    by_folder = draw("red", "--lora", tmp_path / "lora", out="folder")[0]
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    by_file = draw("red", "--lora", file, out="file")[0]
    pictures = [Image.open(path).tobytes() for path in (plain, by_folder, by_file)]
    assert pictures[0] != pictures[1] == pictures[2]
    assert png.read(by_file)["lora"] == str(file)
    again = draw("--params-from", by_file, out="again")[0]
    assert Image.open(again).tobytes() == pictures[1]
    other = tmp_path / "other.safetensors"
    save_file({"something.weight": torch.zeros(2)}, other)
    draw("red", "--lora", other, out="none", code=2)
    assert "lora: expected one of a StableD" in capsys.readouterr().err


def test_jobs_are_not_listed_before_they_are_drawn(folder):
    from guiders.pipelines.generation.generate import generate
    from guiders.pipelines.generation.load import load_pipeline
    from guiders.pipelines.generation.settings import Settings

    def jobs():
        for seed in itertools.count():
            yield Settings("red", CFG(1).to_dict(), seed=seed, num_inference_steps=1)

    made = generate(load_pipeline(str(folder)), jobs(), CFG(1), batch_size=2, quiet=True)
    assert [picture.settings.seed for picture in itertools.islice(made, 3)] == [0, 1, 2]


def test_what_a_model_does_not_read_is_said(draw, capsys):
    draw("\u2603 \u732b", "red " * 2500)
    said = [line for line in capsys.readouterr().err.splitlines() if "%|" not in line]
    assert "guiders: warning: the model knows no word of '\u2603 \u732b'" in said
    (line,) = (line for line in said if "tokens" in line)
    assert "'red red" in line
    assert "reads the first 16" in line
    assert max(map(len, said)) < 400


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"seed": "a"}, ["seed", "'a'"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
        ({"num_inference_steps": None}, ["num_inference_steps", "None"]),
        ({"width": "x"}, ["width", "'x'"]),
        ({"dtype": []}, ["dtype", "[]"]),
        ({"scheduler": []}, ["scheduler", "[]"]),
        ({"model": 5}, ["model", "5"]),
        ({"prompt": None}, ["prompt", "None"]),
        ({"negative_prompt": 5}, ["negative_prompt", "5"]),
        ({"guider": {"type": []}}, ["type", "[]"]),
        ({"guider": {}}, ["type", "None"]),
        ({"guider": {"type": "CFG", "scale": {"type": "Rescale"}}}, ["scale", "Rescale"]),
        ({"guider": {"type": "CFG", "scale": {"type": "PerImage", "scales": []}}}, ["scales"]),
        (
            {"guider": {"type": "CFG", "scale": {"type": "Custom", "function": "sys:exit"}}},
            ["Custom", "would be run"],
        ),
    ],
)
def test_a_strangers_picture_is_read_with_care(stored, words, draw, tmp_path, capsys):
    text = png.PngImagePlugin.PngInfo()
    text.add_text("guiders", json.dumps({"prompt": "red", "guider": CFG(2).to_dict(), **stored}))
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=text)
    own_model = [] if "model" in stored else ["red"] if "prompt" not in stored else []
    args = ["generate", *own_model, "--params-from", str(tmp_path / "x.png")]
    assert main([*args, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    for word in words:
        assert word in said


def test_numbers_go_on_after_five_digits(draw, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "99999-a-0.png").write_bytes(b"")
    draw("red")
    assert [p.name for p in draw("red")][:2] == ["100000-red-0.png", "100001-red-0.png"]


def test_stored_settings_are_json(draw):
    with Image.open(draw("red")[0]) as picture:
        assert json.loads(picture.info["guiders"])["model"]


def test_accelerated(draw, tmp_path, capsys):
    flags = ["red heart", "--num-inference-steps", 12]
    plain = draw(*flags, out="plain")
    made = draw(*flags, "--skip", "sada(interval=2, late=0.3)", out="sada")
    said = capsys.readouterr().out
    assert "24 evaluations" in said
    assert "16 evaluations" in said or "14 evaluations" in said
    assert Image.open(made[0]).tobytes() != Image.open(plain[0]).tobytes()
    assert png.read(made[0])["skip"] == "sada(interval=2, late=0.3)"
    again = draw("--params-from", made[0], "--num-inference-steps", 12, out="again")
    assert Image.open(again[0]).tobytes() == Image.open(made[0]).tobytes()
    draw("red heart", "--skip", "warp", code=2)
    assert "skip: expected sada" in capsys.readouterr().err


def test_acceleration_is_refused_where_steps_draw_noise(draw, capsys):
    draw("red", "--skip", "sada", "--scheduler", "euler-a", code=2)
    assert "EulerAncestralDiscreteScheduler draws noise at every step" in capsys.readouterr().err
