"""Gradients of a reward of decoded pictures, beside CFG."""

import pytest
import tiny
import torch
import zoo
from by_hand import PROMPTS, SOLVERS, ByHand
from errors import error
from guiders import CFG, UniversalGuidance, guided
from guiders.pipelines.context.decode import decode
from tiny import attached


def quadratic(pictures, prompts):
    return -(pictures - 0.5).square().flatten(1).sum(dim=1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_reward_through_the_network(solver):
    """Universal guidance beside CFG, on decoded pictures."""
    pipe = tiny.sd(solver)
    guider = CFG(3) + UniversalGuidance(0.02, quadratic)
    ours, run = attached(pipe, guider)
    hand = ByHand(pipe)
    steps = pipe.unet

    def rule(ask, first, level):
        c, u = ask(PROMPTS[:2]), ask(["", ""])
        seen, t, readout = ask.__defaults__[1:]
        with torch.enable_grad():
            x = seen.clone().requires_grad_()
            embeds = torch.cat([hand.embeds[text] for text in PROMPTS[:2]])
            x0 = readout.x0(x, steps(x, t, embeds, return_dict=False)[0])
            value = quadratic(decode(pipe, x0) / 2 + 0.5, None)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return c + 2 * (c - u) + level.std**2 / level.alpha * 0.02 * gradient

    by_hand = hand.run(rule)
    assert error(ours, by_hand) < 1e-4
    assert error(ours, attached(pipe, CFG(3))[0]) > 1e-3
    assert run.nfe == 2 * len(run.records)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_reward_under_the_callers_mode(mode):
    pipe = tiny.sd("ddim")
    guider = CFG(3) + UniversalGuidance(0.02, quadratic)
    free = attached(pipe, guider)[0]
    with mode():
        assert torch.equal(attached(pipe, guider)[0], free)


@pytest.mark.parametrize("name", ["flux", "sdxl-controlnet", "dit", "sana", "wan"])
def test_a_reward_in_pipelines_of_every_form(name):
    if name not in zoo.ZOO:
        name = next(n for n in zoo.ZOO if "controlnet" in n)
    pipe = zoo.build(name)

    def near_zero(x0, prompts):
        return -x0.float().square().flatten(1).sum(dim=1)

    guider = CFG(2) + UniversalGuidance(0.5, near_zero, "latents", low=0.1, high=0.5)
    plain = zoo.run(name, pipe)
    with guided(pipe, CFG(2), quiet=True):
        cfg = zoo.run(name, pipe)
    with guided(pipe, guider, quiet=True):
        both, one = zoo.run(name, pipe), zoo.run(name, pipe, rows=(1,))
    assert error(both[1], one[0]) < 2e-4
    assert both.norm() < cfg.norm()
    assert torch.equal(zoo.run(name, pipe), plain)
    network = getattr(pipe, "transformer", None) or pipe.unet
    assert all(parameter.grad is None for parameter in network.parameters())
