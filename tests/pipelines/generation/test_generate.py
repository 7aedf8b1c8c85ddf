"""What text-to-image asks of pipelines other than Stable Diffusion."""

import pytest
import zoo
from guiders.pipelines.generation.generate import _size, negative_arguments
from guiders.pipelines.generation.settings import Settings


def job(**changes):
    return Settings("red heart", None, **changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sd3", {"negative_prompt": ["", "dull"], "guidance_scale": 7.5}),
        ("flux", {"negative_prompt": ["", "dull"], "true_cfg_scale": 7.5}),
        ("qwen-image", {"negative_prompt": ["", "dull"], "true_cfg_scale": 7.5}),
        ("lumina2", {"negative_prompt": ["", "dull"], "guidance_scale": 7.5}),
    ],
)
def test_how_the_negative_branch_is_switched_on(name, expected):
    assert negative_arguments(zoo.build(name), ["", "dull"]) == expected


def test_a_pipeline_without_negative_prompts_says_so():
    pipe = zoo.build("dit")
    assert negative_arguments(pipe, [""]) == {"guidance_scale": 7.5}
    with pytest.raises(
        ValueError, match="negative_prompt: expected none, for DiTPipeline, got 'dull'"
    ):
        negative_arguments(pipe, ["dull"])


def test_one_side_alone_is_completed_or_refused():
    assert _size(zoo.build("sd"), job()) == {}
    assert _size(zoo.build("sd"), job(width=32)) == {"width": 32, "height": 16}
    pipe = zoo.build("flux")
    assert _size(pipe, job(width=32, height=16)) == {"width": 32, "height": 16}
    assert _size(pipe, job(width=32))["height"] == pipe.default_sample_size * pipe.vae_scale_factor
