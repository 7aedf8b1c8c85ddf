"""The model that ships: it loads anywhere, and draws what the prompt says."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from guiders import APG, CFG, Adaptive, guided, models
from guiders.pipelines.generation.vocabulary import unknown_words


@pytest.fixture(scope="module")
def pipe():
    pipe = models.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, guider, prompts, steps=12, seeds=None):
    seeds = seeds or range(len(prompts))
    with guided(pipe, guider, quiet=True) as run:
        images = pipe(
            list(prompts), num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        ).images  # fmt: skip
    return images, run


def ink(image):
    """The mean colour (3,) of what is not white."""
    rgb = np.asarray(image, dtype=float).reshape(-1, 3)
    return rgb[rgb.min(axis=1) < 230].mean(axis=0)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_stock_diffusers_loads_it(dtype):
    options = {} if dtype is None else {"dtype": dtype}
    pipe = StableDiffusionPipeline.from_pretrained(models.path("emoji"), **options)
    pipe.set_progress_bar_config(disable=True)
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    assert {part.dtype for part in parts} == {dtype or torch.float32}
    assert pipe("red heart", num_inference_steps=1).images[0].size == (64, 64)


def test_the_files_are_small_and_safe():
    files = [path for path in models.path("emoji").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert max(path.stat().st_size for path in files) < 20e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt", ".md"}


def test_the_prompt_decides_what_is_drawn(pipe):
    names = ["red heart", "blue heart", "green heart", "yellow heart"]
    images, _ = draw(pipe, CFG(6), [f"{name}, noto style" for name in names], seeds=[1] * 4)
    red, blue, green, yellow = map(ink, images)
    assert red.argmax() == 0
    assert red[0] > 2 * red[1:].max()
    assert blue.argmax() == 2
    assert green.argmax() == 1
    assert yellow.argmin() == 2
    assert yellow[2] < 0.6 * yellow[:2].min()


def test_guidance_does_something_and_adaptive_saves(pipe):
    prompts = ["red heart", "grinning face, twemoji style", "food", "cat face"]
    plain, run = draw(pipe, CFG(1), prompts)
    assert run.nfe == 12
    full, run = draw(pipe, APG(8), prompts)
    assert run.nfe == 24
    less, run = draw(pipe, APG(Adaptive(8, threshold=0.999)), prompts)
    assert 12 < run.nfe < 24
    for a, b, c in zip(plain, full, less, strict=True):
        a, b, c = (np.asarray(x, dtype=float) for x in (a, b, c))
        assert abs(a - b).mean() > 2 * abs(c - b).mean()


def test_it_knows_its_words():
    folder = models.path("emoji")
    assert unknown_words("red heart, noto style, fluent flat twemoji emojione blob", folder) == {}
    assert unknown_words("hart", folder)["hart"][0] == "heart"
    with pytest.raises(ValueError, match=r"model: expected one of emoji.*, got 'emojis'"):
        models.load("emojis")
