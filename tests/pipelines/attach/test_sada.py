"""SADA in pipelines of one pass and of two: whole calls of the network left out."""

import pytest
import tiny
import torch
import zoo
from guiders import CFG, SADA, Adaptive, guided, read_level
from guiders.guidance import Prediction
from guiders.samplers import final, sample

LATE = SADA(start=0.4, late=0.4, stop=0.9, interval=3)  # steps 4, 7 of 4 to 8


def test_it_is_that_of_the_sampling_loop():
    pipe, settings = tiny.sd("dpm++"), SADA(start=0.3, late=0.7, stop=0.95)
    with guided(pipe, CFG(3), skip=settings, quiet=True) as attached:
        latents = tiny.run(pipe, steps=16, guidance_scale=3.0)
    scheduler = tiny.scheduler("dpm++")
    told = pipe.encode_prompt(["red heart", "blue car"], "cpu", 1, True, ["", ""])

    def network(q, requests):
        t, found = scheduler.timesteps[q.step.index], {}
        for branch, rows in requests.items():
            prompts = told[branch.condition == "negative"][rows]
            output = pipe.unet(q.x[rows], t, encoder_hidden_states=prompts).sample
            found[branch] = Prediction(q.x[rows], output, read_level(scheduler, t).readout)
        return found

    end = final(
        sample(
            network, scheduler, noise=tiny.latents(2), num_inference_steps=16, guider=CFG(3),
            skip=settings,
        )
    )  # fmt: skip
    said = [record.evaluations for record in end.records]
    assert said == [record.evaluations for record in attached.records]
    assert any(0 in counts for counts in said)
    torch.testing.assert_close(latents, end.x, atol=1e-4, rtol=1e-4)


NAMES = [
    "cogvideox", "dit", "flux", "ltx", "lumina2", "pixart-sigma", "sana", "sd", "sd-controlnet",
    "sd-inpaint", "wan", "wan22",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_calls_of_the_network_are_left_out(name):
    pipe, rows = zoo.build(name), []
    networks = [getattr(pipe, part, None) for part in ("unet", "transformer", "transformer_2")]
    hooks = [
        network.register_forward_hook(lambda module, args, out: rows.append(len(_first(out))))
        for network in networks
        if isinstance(network, torch.nn.Module)
    ]
    whole = zoo.run(name, pipe, steps=10, scale=4.0)
    rows.clear()
    with guided(pipe, CFG(4), skip=LATE, quiet=True) as attached:
        fast = zoo.run(name, pipe, steps=10, scale=4.0)
    for hook in hooks:
        hook.remove()
    kept = [all(record.evaluations) for record in attached.records]
    assert kept == [True] * 5 + [False, False, True, False, True]
    assert sum(rows) == 2 * 2 * 7
    assert attached.nfe == 14
    assert fast.isfinite().all()
    assert (fast - whole).norm() < 0.5 * whole.norm()


def _first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def test_it_adds_to_adaptive_and_leaves_no_trace():
    pipe = tiny.sd("dpm++")
    own = tiny.run(pipe, steps=10, guidance_scale=4.0)
    with guided(pipe, CFG(Adaptive(4, threshold=-1)), skip=LATE, quiet=True) as attached:
        tiny.run(pipe, steps=10)
    assert attached.nfe == 7 + 1
    assert torch.equal(tiny.run(pipe, steps=10, guidance_scale=4.0), own)


def test_what_is_no_sada_is_refused():
    with (
        pytest.raises(ValueError, match=r"skip: expected SADA.*, got True"),
        guided(tiny.sd(), CFG(3), skip=True),
    ):
        pass
