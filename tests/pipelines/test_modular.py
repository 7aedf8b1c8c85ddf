"""Our guiders in the loops of Modular Diffusers, and Diffusers' guiders as rules in ours."""

import pytest
import tiny
import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    AutoGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    TangentialClassifierFreeGuidance,
)
from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks
from guiders import (
    APG,
    CFG,
    Adaptive,
    DiffusersRule,
    Interval,
    Rescale,
    WeakModel,
    guided,
    to_diffusers,
)


@pytest.fixture(scope="module")
def both():
    """The same parts as a modular and as a classic pipeline."""
    pipe = tiny.sdxl()
    modular = StableDiffusionXLAutoBlocks().get_workflow("text2image").init_pipeline()
    parts = {k: v for k, v in pipe.components.items() if k in modular.components}
    modular.update_components(**{k: v for k, v in parts.items() if v is not None})
    modular.set_progress_bar_config(disable=True)
    return modular, pipe


def run(modular, guider, **options):
    modular.update_components(guider=guider)
    return modular(
        prompt=["red heart", "blue car"], num_inference_steps=6, latents=tiny.latents(),
        height=16, width=16, output_type="latent", output="images", **options,
    )  # fmt: skip


def classic(pipe, guider):
    with guided(pipe, guider, quiet=True) as attachment:
        return tiny.run(pipe, height=16, width=16), attachment


def error(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


GUIDERS = [
    CFG(6),
    APG(6),
    APG(Interval(6, low=1)),
    CFG(6) | Rescale(0.7),
    CFG(Adaptive(6, threshold=-1)),
]


@pytest.mark.parametrize("guider", GUIDERS, ids=str)
def test_a_guider_does_there_what_it_does_here(both, guider):
    modular, pipe = both
    here, attachment = classic(pipe, guider)
    bridge, calls = to_diffusers(guider, modular.scheduler), []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    there = run(modular, bridge)
    handle.remove()
    assert error(there, here) < 1e-5
    assert len(calls) == attachment.nfe
    assert torch.equal(run(modular, bridge), there)  # the memory begins afresh
    assert [r.evaluations for r in bridge.records] == [r.evaluations for r in attachment.records]


def test_it_is_their_cfg(both):
    modular, _ = both
    theirs = run(modular, ClassifierFreeGuidance(guidance_scale=6))
    assert error(run(modular, to_diffusers(CFG(6), modular.scheduler)), theirs) < 1e-5


def test_a_weak_model_needs_no_negative_prompt(both):
    modular, pipe = both
    weak = tiny.sdxl().unet
    for parameter in weak.parameters():
        parameter.data.mul_(0.9)
    guider = CFG(2, reference=WeakModel(weak))
    bridge = to_diffusers(guider, modular.scheduler)
    assert bridge.num_conditions == 1
    assert error(run(modular, bridge), classic(pipe, guider)[0]) < 1e-5
    with pytest.raises(ValueError, match="not stored as JSON"):
        bridge.save_pretrained("never")


def test_a_scale_for_each_image_evaluates_whole_batches(both):
    modular, pipe = both
    there = run(modular, to_diffusers(CFG([1, 6]), modular.scheduler))
    assert error(there, classic(pipe, CFG([1, 6]))[0]) < 1e-5


def test_saving_loading_and_copying(both, tmp_path):
    modular, _ = both
    bridge = to_diffusers(APG(Interval(6, low=1)), modular.scheduler)
    there = run(modular, bridge)
    bridge.save_pretrained(tmp_path)
    loaded = type(bridge).from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"call bind\(pipe.scheduler\) first"):
        run(modular, loaded)
    assert torch.equal(run(modular, loaded.bind(modular.scheduler)), there)
    assert torch.equal(run(modular, bridge.new()), there)


def test_disabled_it_does_nothing(both):
    modular, pipe = both
    bridge = to_diffusers(APG(6), modular.scheduler)
    unguided, _ = classic(pipe, CFG(1))
    bridge.disable()
    assert bridge.num_conditions == 1
    bridge.enable()
    assert bridge.num_conditions == 2
    assert error(run(modular, to_diffusers(CFG(1), modular.scheduler)), unguided) < 1e-5


@pytest.mark.parametrize(
    "rule",
    [
        ClassifierFreeGuidance(guidance_scale=6, guidance_rescale=0.7),
        ClassifierFreeGuidance(guidance_scale=6, stop=0.5),
        AdaptiveProjectedGuidance(guidance_scale=6, adaptive_projected_guidance_momentum=0.5),
        ClassifierFreeZeroStarGuidance(guidance_scale=6),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_guider_of_theirs_is_a_rule_in_ours(both, rule):
    modular, pipe = both
    if rule._stop < 1:  # their own loop reads the number of prompts from the last run
        here, _ = classic(pipe, DiffusersRule(rule))
        again, _ = classic(pipe, DiffusersRule(rule))
        assert torch.equal(here, again)
        return
    theirs = run(modular, rule.new())
    here, _ = classic(pipe, DiffusersRule(rule))
    assert error(here, theirs) < 1e-5
    assert torch.equal(classic(pipe, DiffusersRule(rule))[0], here)


def test_what_is_not_allowed_is_said():
    with pytest.raises(ValueError, match=r"allowed is a Guider such as CFG\(7.5\)"):
        to_diffusers(7.5, None)
    for wrong in (CFG(3), AutoGuidance(auto_guidance_layers=0, dropout=0.1), None):
        with pytest.raises(ValueError, match="DiffusersRule: rule"):
            DiffusersRule(wrong)
    assert str(DiffusersRule(TangentialClassifierFreeGuidance())).startswith("Tangential")
    with pytest.raises(ValueError, match="not stored as JSON"):
        DiffusersRule(ClassifierFreeGuidance()).to_dict()
