"""What a guided step does to tensors of the latents' size, beyond what the plain pipeline does."""

import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from guiders import APG, CFG, Adaptive, Interval, Rescale, guided
from operations import Operations

SIDE = 128  # latents of 1 x 4 x 128 x 128, in float32


class Instant(UNet2DConditionModel):
    """A U-Net that answers at once, always the same for each row."""

    def forward(self, sample, timestep, encoder_hidden_states, return_dict=True, **others):
        if not hasattr(self, "answer"):
            generator = torch.Generator().manual_seed(0)
            self.answer = torch.randn(2, 4, SIDE, SIDE, generator=generator)
        said = self.answer[: len(sample)]
        return UNet2DConditionOutput(said) if return_dict else (said,)


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny.sd("euler")
    pipe.unet.__class__ = Instant
    return pipe


def once(pipe, guider, steps):
    latents = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    settings = {
        "num_inference_steps": steps, "guidance_scale": 7.5, "latents": latents,
        "output_type": "latent",
    }  # fmt: skip
    with Operations() as seen:
        if guider is None:
            pipe("a", **settings)
        else:
            with guided(pipe, guider, quiet=True):
                pipe("a", **settings)
    return seen


def step_of(pipe, guider):
    """Operations and bytes of a step in the middle: what eight more of them add to a run."""
    short, long = once(pipe, guider, 8), once(pipe, guider, 16)
    return (len(long.names) - len(short.names)) / 8, (long.bytes - short.bytes) / 8


@pytest.mark.parametrize(
    ("guider", "operations", "times"),
    [
        (CFG(7.5), 6, 2),
        (CFG(Interval(7.5, low=0.01, high=99)), 6, 2),
        (APG(7.5), 14, 3),
        (APG(7.5, momentum=0), 14, 3),
        (APG(7.5) + CFG(3) | Rescale(0.7), 24, 4),
        (CFG(Adaptive(7.5, threshold=1)), 14, 3),
    ],
    ids=str,
)
def test_a_guided_step_costs_little_more_than_the_plain_one(pipe, guider, operations, times):
    plain, moved = step_of(pipe, None)
    ours, ours_moved = step_of(pipe, guider)
    assert plain == pytest.approx(11, abs=0.2)
    assert ours - plain <= operations, once(pipe, guider, 9).names
    assert ours_moved <= times * moved


@pytest.mark.parametrize("guider", [CFG(7.5), APG(7.5), CFG(Adaptive(7.5))], ids=str)
def test_no_tensor_of_the_latents_size_is_in_float64(pipe, guider):
    assert once(pipe, guider, 3).wide == []
