"""Pipelines that change the guided prediction, somewhere and at one step, are noticed."""

import math

import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from guiders import CFG, guided
from guiders.guidance.engine.finite import row_sums
from guiders.pipelines.attach.arrival import Arrivals


class Meddling(StableDiffusionPipeline):
    """Changes what it combines, at the step ``at`` alone: ``spoil(prediction)``, in place."""

    at, count = None, 0

    @property
    def guidance_scale(self):
        pipe = self

        class Factor(float):
            def __mul__(self, gap):
                pipe.count += 1
                return pipe.spoil(gap.clone()) if pipe.count == pipe.at else gap

        return Factor(self._guidance_scale)


def scaled(prediction):
    prediction[1] += 0.3
    return prediction


def region(prediction):
    prediction[0, :, 2:4, 5:7] += 1
    return prediction


def element(prediction):
    prediction[1, 2, 6, 3] += 2
    return prediction


@pytest.mark.parametrize("spoil", [scaled, region, element])
@pytest.mark.parametrize("at", [1, 4, 6, 8])
def test_a_change_at_one_step_is_noticed_before_the_run_ends(spoil, at):
    pipe = tiny.sd("ddim")
    pipe.__class__ = Meddling
    pipe.at, pipe.spoil, pipe.count = at, spoil, 0
    with (
        pytest.raises(RuntimeError, match="changes the guided prediction"),
        guided(pipe, CFG(5), quiet=True),
    ):
        tiny.run(pipe, steps=8)
    pipe.at, pipe.count = None, 0
    with guided(pipe, CFG(5), quiet=True):
        tiny.run(pipe, steps=8)


def test_a_frame_that_is_changed_so_that_its_sum_is_kept_is_noticed():
    generator = torch.Generator().manual_seed(0)
    arrivals = Arrivals("VideoPipeline", torch.float32)
    for number in range(9):
        sent = torch.randn(2, 4, 5, 6, 10, generator=generator)
        arrived = sent.clone()
        if number == 5:
            arrived[1, :, 3] = sent[1, :, 3].flip(-1)
        arrivals.compare(arrived, sent, row_sums(sent), True, number == 8)
    with pytest.raises(RuntimeError, match="differs by"):
        arrivals.finish()


@pytest.mark.parametrize("shape", [(3, 16, 16), (5, 3), (2, 9, 4, 4), (40,)])
def test_every_element_is_looked_at_within_eight_evaluations(shape):
    """A change of two elements by which no sum changes."""
    pairs = torch.randperm(math.prod(shape), generator=torch.Generator().manual_seed(0))
    for plus, minus in pairs[:12].view(-1, 2).tolist():
        change = torch.zeros(2, math.prod(shape))
        change[1, plus], change[1, minus] = 1.0, -1.0
        arrivals = Arrivals("Pipeline", torch.float32)
        for number in range(10):
            sent = torch.randn(2, *shape, generator=torch.Generator().manual_seed(number))
            arrived = sent + change.view_as(sent) if 0 < number < 9 else sent
            arrivals.compare(arrived, sent, row_sums(sent), guided=True, last=number == 9)
        with pytest.raises(RuntimeError, match="changes the guided prediction"):
            arrivals.finish()


def test_what_rounding_explains_is_not_noticed():
    arrivals = Arrivals("Pipeline", torch.bfloat16)
    for number in range(6):
        sent = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(number)).bfloat16()
        arrived = (sent.float() * (1 + 2**-9)).bfloat16()
        arrivals.compare(arrived, sent, row_sums(sent), True, number == 5)
    arrivals.finish()
