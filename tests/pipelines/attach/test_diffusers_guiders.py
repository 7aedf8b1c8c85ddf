"""Our guiders in the loops of Modular Diffusers, and Diffusers' guiders as rules in ours."""

import pytest
import tiny
import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    AutoGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    TangentialClassifierFreeGuidance,
)
from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks
from errors import error
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


@pytest.mark.quick
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


def test_a_guider_that_first_sees_the_middle_of_a_run(both):
    """As the second of the two guiders of Wan 2.2: twice, to see that its memory begins afresh."""
    modular, _ = both
    modular.scheduler.set_timesteps(6)
    data = {"prompt_embeds": (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))}
    x = tiny.latents()

    class Denoiser(torch.nn.Module):
        def forward(self, x, t):
            return x

    network, results = Denoiser(), []
    bridge = to_diffusers(APG(6), modular.scheduler)
    for _ in range(2):
        modular.scheduler.set_timesteps(6)
        for step in (3, 4, 5):
            t = modular.scheduler.timesteps[step]
            modular.scheduler._step_index = step
            bridge.set_state(step, 6, t)
            batches = bridge.prepare_inputs(data)
            for number, batch in enumerate(batches):
                bridge.prepare_models(network)
                batch.noise_pred = network(x, t) if number == 0 else x.flip(-1)
                bridge.cleanup_models(network)
            results.append(bridge(batches).pred)
    assert len(bridge.records) == 3
    assert torch.equal(torch.stack(results[:3]), torch.stack(results[3:]))
    assert error(results[1], results[0]) > 1e-3  # or this would show nothing


def test_it_asks_for_a_negative_prompt_only_where_it_may_need_one(both):
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
        half, _ = classic(pipe, CFG(lambda step: 6 if step.index < 3 else 1))
        here, _ = classic(pipe, DiffusersRule(rule))
        assert error(here, half) < 1e-5
        assert torch.equal(classic(pipe, DiffusersRule(rule))[0], here)
        return
    theirs = run(modular, rule.new())
    here, _ = classic(pipe, DiffusersRule(rule))
    assert error(here, theirs) < 1e-5
    assert torch.equal(classic(pipe, DiffusersRule(rule))[0], here)


@pytest.fixture(scope="module")
def hunyuan():
    """One of the six classic pipelines with a place for a guider."""
    torch.manual_seed(0)
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, text_embed_dim=16, text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
    )  # fmt: skip
    pipe = HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=None, text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=transformer.eval(),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_hunyuan(pipe, guider):
    pipe.guider = guider
    generator = torch.Generator().manual_seed(0)
    words = {
        f"{sign}prompt_embeds{which}": 4 * torch.randn(2, 5, 16, generator=generator)
        for sign in ("", "negative_")
        for which in ("", "_2")
    }
    masks = {
        key.replace("embeds", "embeds_mask"): torch.ones(2, 5, dtype=torch.long) for key in words
    }
    return pipe(
        **words, **masks, num_inference_steps=4, height=128, width=128, output_type="latent",
        latents=torch.randn(2, 4, 4, 4, generator=generator),
    ).images  # fmt: skip


def test_a_classic_pipeline_with_a_place_for_a_guider(hunyuan):
    theirs = run_hunyuan(hunyuan, ClassifierFreeGuidance(guidance_scale=5))
    assert error(run_hunyuan(hunyuan, to_diffusers(CFG(5), hunyuan.scheduler)), theirs) < 1e-5
    unguided = run_hunyuan(hunyuan, to_diffusers(CFG(1), hunyuan.scheduler))
    assert error(unguided, theirs) > 0.01
    calls = []
    hunyuan.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(1), with_kwargs=True
    )
    off = to_diffusers(CFG(5), hunyuan.scheduler)
    off.disable()
    assert error(run_hunyuan(hunyuan, off), unguided) < 1e-6
    assert len(calls) == 4
    calls.clear()
    skipping = to_diffusers(APG(Adaptive(5, threshold=-1)), hunyuan.scheduler)
    first = run_hunyuan(hunyuan, skipping)
    assert len(calls) == 5
    assert torch.equal(run_hunyuan(hunyuan, skipping), first)
    with pytest.raises(ValueError, match=r"pipe\.guider = to_diffusers"), guided(hunyuan, CFG(5)):
        pass


def test_what_is_not_allowed_is_said():
    with pytest.raises(ValueError, match=r"allowed is a Guider such as CFG\(7.5\)"):
        to_diffusers(7.5, None)
    for wrong in (CFG(3), AutoGuidance(auto_guidance_layers=0, dropout=0.1), None):
        with pytest.raises(ValueError, match="DiffusersRule: rule"):
            DiffusersRule(wrong)
    assert str(DiffusersRule(TangentialClassifierFreeGuidance())).startswith("Tangential")
    with pytest.raises(ValueError, match="not stored as JSON"):
        DiffusersRule(ClassifierFreeGuidance()).to_dict()
