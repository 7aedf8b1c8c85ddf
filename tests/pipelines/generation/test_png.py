"""Settings inside of pictures."""

import pytest
from guiders.pipelines.generation import png
from PIL import Image


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red heart", {"prompt": "red heart", "negative_prompt": ""}),
        (
            "Negative prompt: cat\nSteps: 4",
            {"prompt": "", "negative_prompt": "cat", "num_inference_steps": 4},
        ),
        (
            "a\nb\nNegative prompt: c\nd\nSteps: 4, Seed: 7, CFG scale: 2.5\nTemplate: x, Seed: 9",
            {"prompt": "a\nb", "negative_prompt": "c\nd", "num_inference_steps": 4, "seed": 7,
             "guidance_scale": 2.5},
        ),
    ],
)  # fmt: skip
def test_texts_of_other_tools(text, expected, tmp_path):
    chunks = png.PngImagePlugin.PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png", pnginfo=chunks)
    assert png.read(tmp_path / "other.png") == expected
