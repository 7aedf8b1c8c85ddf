"""Methods that change what a branch is told, or skip whole steps."""

import sys

import pytest
import tiny
import torch
import zoo
from errors import error
from guiders import (
    CADS,
    CFG,
    CFGZeroStar,
    ZeroInit,
    guided,
)
from tiny import attached


@pytest.mark.parametrize("name", ["sd3", "flux", "wan", "lumina2", "qwen-image"])
def test_zero_init_moves_nothing(name):
    pipe = zoo.build(name)
    with guided(pipe, CFGZeroStar(3) | ZeroInit(4), quiet=True) as run:
        still = zoo.run(name, pipe)
    assert run.nfe == 0
    start = []
    with guided(pipe, CFGZeroStar(3) | ZeroInit(1), quiet=True) as run:
        network = pipe.transformer
        handle = network.register_forward_pre_hook(
            lambda _, args, kwargs: start.append(kwargs["hidden_states"].clone()), with_kwargs=True
        )
        moved = zoo.run(name, pipe)
        handle.remove()
    assert run.nfe == 6
    assert len(still) == len(moved)
    assert error(start[0][: len(still)], still) < 2e-5


def test_zero_init_is_refused_elsewhere():
    with pytest.raises(ValueError, match="allowed are flows"):
        attached(tiny.sd("ddim"), CFG(3) | ZeroInit())


def test_cads_is_not_ignored_where_the_pipeline_is_learnt(monkeypatch):
    guider = CFG(5) | CADS(low=0, high=0.5, noise_scale=1.0)
    pipe = tiny.sd("ddim")
    listed, _ = attached(pipe, guider, steps=3)
    monkeypatch.setattr(
        sys.modules["guiders.pipelines.attach.attachment"], "form_of", lambda pipe: None
    )
    learnt, run = attached(pipe, guider, steps=3)
    assert error(learnt, listed) < 1e-5
    assert [sum(record.evaluations) for record in run.records] == [6, 4, 4]


def test_cads_changes_what_the_positive_branch_is_told():
    pipe = tiny.sd("ddim")
    told = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(kwargs["encoder_hidden_states"].clone()),
        with_kwargs=True,
    )
    plain, _ = attached(pipe, CFG(3))
    clean = told.pop()
    told.clear()
    noisy, _ = attached(pipe, CFG(3) | CADS(0.3, 0.7, noise_scale=0.5))
    handle.remove()
    assert all(torch.equal(each[:2], clean[:2]) for each in told)  # the negative half
    changed = [not torch.equal(each[2:], clean[2:]) for each in told]
    assert changed == [True] * 4 + [False] * 2  # times 1, .8, .6, .4, .2, 0
    assert error(noisy, plain) > 1e-3
    alone = attached(pipe, CFG(3) | CADS(0.3, 0.7, noise_scale=0.5), batch=1)[0]
    assert error(alone[0], noisy[0]) < 1e-4
    with pytest.raises(ValueError, match="is told no embedding of a prompt"):
        attached(zoo.build("dit"), CFG(3) | CADS(), run=lambda pipe, **_: zoo.run("dit", pipe))


def test_the_noise_of_cads_follows_from_generators_and_not_from_what_the_network_sees(monkeypatch):
    """Pictures that come through an autoencoder differ in their last bits between devices."""
    pipe = tiny.sd("ddim")

    def draw(rows=(0, 1), nudge=0.0, one=False, **options):
        told = []

        def look(_, args, kwargs):
            told.append(kwargs["encoder_hidden_states"][-len(rows) :].clone())
            return (args[0] + nudge, *args[1:]), kwargs

        handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
        prepare = type(pipe).prepare_latents
        monkeypatch.setattr(
            type(pipe), "prepare_latents", lambda *a, **k: prepare(*a, **k) * (1 + nudge)
        )
        generators = [torch.Generator().manual_seed(row) for row in rows]
        with guided(pipe, CFG(3) | CADS(0.3, 0.7, noise_scale=0.5), quiet=True):
            pipe(
                ["red heart", "blue car"][: len(rows)], num_inference_steps=2,
                output_type="latent", generator=generators[0] if one else generators, **options,
            )  # fmt: skip
        handle.remove()
        monkeypatch.undo()
        return told[0]

    both = draw()
    assert torch.equal(both, draw(nudge=1e-6))
    torch.testing.assert_close(draw(rows=(0,), one=True)[0], both[0])
    assert not torch.equal(both, draw(rows=(0, 2)))
    assert torch.equal(both[0], draw(rows=(0, 2))[0])
    shared = draw(one=True)
    assert torch.equal(shared, draw(one=True, nudge=1e-6))
    given = draw(latents=tiny.latents())
    assert torch.equal(given, draw(latents=tiny.latents(), nudge=1e-6))
    assert not torch.equal(given, draw(latents=tiny.latents(seed=1)))
