"""Methods in whole runs, held against loops by hand."""

import copy

import pytest
import tiny
import torch
from by_hand import PROMPTS, SOLVERS, ByHand
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0
from errors import error
from guiders import (
    APG,
    CFG,
    Adaptive,
    CFGPlusPlus,
    Interval,
    PerturbedAttention,
    Stale,
    WeakModel,
    guided,
)
from tiny import attached


@pytest.mark.parametrize("solver", SOLVERS)
def test_apg_in_an_interval_until_it_agrees(solver):
    pipe = tiny.sd(solver)
    low, high, threshold = 0.3, 8.0, 0.9
    guider = APG(Adaptive(Interval(6, low, high), threshold), rescale=3.0, momentum=-0.5)
    ours, run = attached(pipe, guider)
    momentum, agreed, guided_rows = [0, 0], [False, False], []

    def rule(ask, first, level):
        c, u = ask(PROMPTS[:2]), ask(["", ""])
        out, new_step = c.clone(), first is level
        if new_step:  # the second stage of a step keeps the decision of the first
            inside = low < level.edm <= high
            guided_rows[:] = [row for row in range(2) if inside and not agreed[row]]
        for row in guided_rows:
            gap = c[row] - u[row] - 0.5 * momentum[row]
            if new_step:
                waiting[row] = gap
                cosine = torch.cosine_similarity(c[row].flatten(), u[row].flatten(), dim=0)
                agreed[row] = bool(cosine >= threshold)
            g = gap * min(1.0, 3.0 / gap.norm().item())
            g = g - (g * c[row]).sum() / c[row].square().sum() * c[row]
            out[row] = c[row] + 5 * g
        return out

    waiting = {}

    def with_memory(ask, first, level):
        if first is level:  # what a step wrote counts from the next one on
            for row, gap in waiting.items():
                momentum[row] = gap
        return rule(ask, first, level)

    by_hand = ByHand(pipe).run(with_memory)
    assert any(agreed)
    assert run.nfe < 2 * len(run.records)
    assert error(ours, by_hand) < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
def test_cfg_with_perturbed_attention(solver):
    pipe = tiny.sd(solver)
    guider = CFG(5) + CFG(4, reference=PerturbedAttention())
    ours, run = attached(pipe, guider)
    perturbed = copy.deepcopy(pipe.unet)  # by Diffusers' own processor
    for name, module in perturbed.mid_block.named_modules():
        if name.endswith("attn1"):
            module.set_processor(PAGIdentitySelfAttnProcessor2_0())

    def rule(ask, first, level):
        c, u = ask(PROMPTS[:2]), ask(["", ""])
        # the processor leaves the first half of a batch as it is
        seen, t, readout = ask.__defaults__[1:]
        embeds = torch.cat([hand.embeds[text] for text in [*PROMPTS[:2], *PROMPTS[:2]]])
        both = perturbed(torch.cat([seen, seen]), t, embeds, return_dict=False)[0]
        p = readout.x0(seen, both[2:])
        return c + 4 * (c - u) + 3 * (c - p)

    hand = ByHand(pipe)
    assert error(ours, hand.run(rule)) < 1e-4
    assert run.nfe == 3 * len(run.records)


@pytest.mark.parametrize("keep", ["x0", "eps", "output"])
def test_the_stale_difference_in_a_pipeline(keep):
    pipe = tiny.sd("ddim", "v_prediction")
    ours, run = attached(pipe, CFG(4, reference=Stale(-1, keep=keep)))
    assert [record.evaluations for record in run.records] == [[2, 2]] + [[1, 1]] * 5
    kept = {}

    def rule(ask, first, level):
        c, fades = ask(PROMPTS[:2]), {"x0": 1, "eps": level.edm, "output": level.std}[keep]
        kept.setdefault("gap", (c - ask(["", ""])) / fades)
        return c + 3 * kept["gap"] * fades

    assert error(ours, ByHand(pipe).run(rule)) < 1e-4


def test_a_schedule_for_first_order_says_so_elsewhere(recwarn):
    attached(tiny.sd("ddim"), CFG(CFGPlusPlus(0.6)))
    attached(tiny.sd("euler"), CFG(Interval(CFGPlusPlus(0.6))))
    assert not [w for w in recwarn if "first order" in str(w.message)]
    with pytest.warns(UserWarning, match="meant for solvers of first order"):
        attached(tiny.sd("dpm++"), CFG(Interval(CFGPlusPlus(0.6))))


def test_an_overflow_is_not_called_an_unknown_pipeline():
    pipe = tiny.sd("ddim").to(torch.float16)
    with pytest.raises(RuntimeError, match=r"the guided prediction at step 0 .* has NaN or inf"):
        attached(pipe, CFG(1e6), steps=2)


def test_diagnostics_of_a_pipeline():
    pipe = tiny.sd("ddim")
    weak = WeakModel(tiny.sd("ddim").unet)
    plain, _ = attached(pipe, CFG(3, reference=weak))
    with guided(pipe, CFG(3, reference=weak), quiet=True, diagnose=True) as run:
        seen = tiny.run(pipe, guidance_scale=2.0)
    assert error(seen, plain) < 1e-5
    assert run.nfe == 12
    assert len(run.records[0].diagnosis.effective_scale) == 2
    with guided(pipe, CFG(4.5), quiet=True, diagnose=True) as run:
        tiny.run(pipe, guidance_scale=2.0)
    scales = [value for record in run.records for value in record.diagnosis.effective_scale]
    assert scales == pytest.approx([4.5] * 12, abs=1e-3)
    with (
        guided(pipe, CFG(3, reference=weak), quiet=True, diagnose=True),
        pytest.raises(ValueError, match=r"guidance_scale is 1, .* that diagnose=True needs"),
    ):
        tiny.run(pipe, guidance_scale=1.0)


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_network_that_breaks_stops_the_run_with_the_step(at):
    pipe = tiny.sd("ddim")
    count = []

    def spoil(module, args, output):
        count.append(None)
        if len(count) == at + 1:
            output[0][2, 0, 0, 0] = torch.nan
        return output

    pipe.unet.register_forward_hook(spoil)
    with pytest.raises(RuntimeError, match=rf"the network's positive prediction at step {at} "):
        attached(pipe, CFG(3))
    assert len(count) <= at + 2
