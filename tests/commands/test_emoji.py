"""The commands with the model that ships: its judges read what it draws."""

import json

import numpy as np
from guiders.commands import main
from PIL import Image
from safetensors.torch import load_file

FEW = ["--num-inference-steps", "3", "--device", "cpu"]


def test_evaluate_with_all_judges_that_ship(tmp_path):
    out = tmp_path / "run"
    words = tmp_path / "prompts.tsv"
    words.write_text("prompt\tlabel\nred heart\tsymbols\nbanana\tfood\ncat face\tnature\n")
    flags = [
        "--prompts", str(words), "--num-images", "3", "--metrics",
        "fd:emoji-clip,fd:emoji-judge,clip:emoji-clip,class,saturation", "--out", str(out), *FEW,
    ]  # fmt: skip
    assert main(["evaluate", *flags]) == 0
    figures = json.loads((out / "manifest.json").read_text())["figures"]
    for key in ("fd:emoji-clip", "fd:emoji-judge", "clip:emoji-clip", "class", "saturation"):
        (found,) = [value for name, value in figures.items() if name.startswith(key)]
        assert found["value"] >= 0
    pictures = [Image.open(path) for path in (out / "pictures").glob("*.png")]
    assert [picture.size for picture in pictures] == [(64, 64)] * 3


def test_align_by_the_clip_that_ships(tmp_path):
    out = tmp_path / "lora"
    flags = [
        "--reward", "emoji-clip", "--max-steps", "1", "--batch-size", "1", "--eval-prompts", "1",
        "--truncation", "all", "--out", str(out), *FEW,
    ]  # fmt: skip
    assert main(["align", *flags]) == 0
    shown = np.asarray(Image.open(out / "before-after.png"))
    assert shown.std() > 1
    weights = load_file(out / "pytorch_lora_weights.safetensors")
    moved = [value for name, value in weights.items() if "lora_B" in name]
    assert moved
    assert any(value.abs().max() > 0 for value in moved)  # they begin at 0
