"""Adapters that are switched off for one prediction."""

import pytest
import torch
import zoo
from calls import met, said
from errors import error
from guiders import CFG, AdapterOff
from zoo import attached


def with_loras(pipe):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    for name in ("style", "speed"):
        pipe.unet.add_adapter(
            peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), name
        )
    pipe.unet.set_adapters(["style", "speed"], [1.0, 0.5])
    return pipe


def test_adapters_are_switched_off_for_one_prediction():
    base, pipe = zoo.build("sd"), with_loras(zoo.build("sd"))
    network, inputs = met("sd", pipe)
    plain, grads = said(network, inputs), [p.requires_grad for p in network.parameters()]
    assert torch.equal(said(network, inputs, AdapterOff()), said(base.unet, inputs))
    style = said(network, inputs, AdapterOff("speed"))
    assert network.active_adapters() == ["style", "speed"]
    assert [p.requires_grad for p in network.parameters()] == grads
    assert torch.equal(said(network, inputs), plain)
    network.set_adapters(["style"])
    assert torch.equal(said(network, inputs), style)
    assert torch.equal(said(network, inputs, AdapterOff("style")), said(base.unet, inputs))


def test_a_scale_of_zero_is_the_base_model():
    pipe = with_loras(zoo.build("sd"))
    ours, run = attached("sd", CFG(0, reference=AdapterOff()), pipe, scale=1)
    assert run.nfe == 8
    assert error(ours, zoo.run("sd", zoo.build("sd"), scale=1)) < 1e-5
    assert error(ours, zoo.run("sd", pipe, scale=1)) > 1e-3


def test_adapters_that_are_not_there_are_named():
    pipe = with_loras(zoo.build("sd"))

    def refused(words, names=None):
        with pytest.raises(ValueError, match=words):
            attached("sd", CFG(2, reference=AdapterOff(names)), pipe)

    refused(r"names: expected of the active adapters: style, speed.*, got \['other'\]", "other")
    pipe.unet.disable_adapters()
    refused("switched off already")
    pipe.unet.enable_adapters()
    pipe.unet.fuse_lora()
    refused("fused into the weights")
