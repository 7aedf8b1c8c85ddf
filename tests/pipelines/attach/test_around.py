"""Around a guided pipeline: ControlNet, caches, LoRA, callbacks, offloading; what is refused."""

import re
import warnings

import diffusers
import pytest
import torch
import zoo
from accelerate import cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from errors import error
from guiders import APG, CFG, Adaptive, Interval, WeakModel, guided
from guiders.pipelines.patch.call_arguments import Inputs
from zoo import attached

SKIPPING = CFG(Adaptive(5, threshold=-1))  # guides the first step alone


# Refused in words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cosmos2", "Cosmos2TextToImagePipeline: it turns each branch into a clean image"),
        ("ltx2", "LTX2Pipeline: it denoises pictures and sound with two schedulers"),
        ("instruct-pix2pix", "InstructPix2PixPipeline: it evaluates three branches"),
        ("pag", "allowed is StableDiffusionPipeline with a guider"),
    ],
)
def test_what_cannot_be_guided_is_refused_before_anything_is_done(name, words):
    pipe = zoo.build(name)
    with pytest.raises(ValueError, match=words), guided(pipe, CFG(5)):
        pass


def test_kandinsky3_is_refused_in_half_precision_alone():
    pipe = zoo.build("kandinsky3", torch.bfloat16)
    with pytest.raises(ValueError, match=r"bfloat16.*allowed is float32"), guided(pipe, CFG(5)):
        pass


@pytest.mark.parametrize("name", ["flux-embedded", "lcm"])
def test_distilled_guidance_is_an_error_or_a_warning(name):
    pipe = zoo.build(name)
    with guided(pipe, CFG(5), quiet=True), pytest.raises(ValueError) as caught:
        zoo.run(name, pipe)
    words = {"flux-embedded": "true_cfg_scale above 1 with a negative_prompt", "lcm": "distilled"}
    assert words[name] in str(caught.value)
    weak = zoo.build(name)
    network = weak.transformer if name == "flux-embedded" else weak.unet
    for parameter in network.parameters():
        parameter.data.mul_(0.9)
    guider = CFG(2, reference=WeakModel(network))
    with pytest.warns(UserWarning, match="guidance_scale=5 goes into the network"):
        ours, run = attached(name, guider, pipe)
    assert run.nfe == 2 * len(run.records)
    assert error(ours, zoo.run(name, pipe)) > 1e-3


def test_layer_skipping_of_the_pipelines_own_is_refused():
    pipe = zoo.build("sd3")
    with guided(pipe, CFG(5), quiet=True), pytest.raises(RuntimeError, match="called its denoiser"):
        zoo.run("sd3", pipe, skip_guidance_layers=[0], skip_layer_guidance_stop=1.0)


def test_a_cut_that_ends_the_negative_branch_is_refused():
    pipe = zoo.build("lumina2")
    with (
        guided(pipe, CFG(5), quiet=True),
        pytest.raises(RuntimeError, match="did not evaluate its negative branch at step 2"),
    ):
        zoo.run("lumina2", pipe, cfg_trunc_ratio=0.5)
    stopped = CFG(Interval(5, low=2.0))
    ours, run = attached("lumina2", stopped, pipe)
    assert torch.isfinite(ours).all()
    assert run.nfe < 2 * len(run.records)


# Warned about


def test_a_negative_prompt_without_effect_is_warned_about():
    pipe = zoo.build("sd")
    weak = CFG(2, reference=WeakModel(zoo.build("sd").unet))
    with pytest.warns(UserWarning, match="negative_prompt has no effect"):
        attached("sd", weak, pipe, negative_prompt=["bad", "ugly"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attached("sd", weak, pipe)
        attached("sd", CFG(Interval(5, low=1)), pipe, negative_prompt=["bad", "ugly"])


def test_autoguidance_pays_for_no_negative_branch():
    pipe, other, rows = zoo.build("sd"), zoo.build("sd").unet, []
    pipe.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    for scale in (1, 5):
        rows.clear()
        attached("sd", CFG(2, reference=WeakModel(other)), pipe, scale=scale)
        assert rows == [2, 2, 2, 2]


# ControlNet


@pytest.mark.parametrize("name", ["sd-controlnet", "sdxl-controlnet"])
def test_a_controlnet_is_evaluated_for_no_more_rows_than_the_denoiser(name):
    pipe, rows = zoo.build(name), []
    own = zoo.run(name, pipe, scale=1)
    pipe.controlnet.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(args[0])), with_kwargs=True
    )
    ours, _ = attached(name, CFG(1), pipe)
    assert rows == [2, 2, 2, 2]
    assert error(ours, own) < 1e-6
    rows.clear()
    mixed, _ = attached(name, CFG([1, 5]), pipe)
    assert rows == [3, 3, 3, 3]
    assert error(mixed[0], ours[0]) < 1e-5
    assert error(mixed[1], zoo.run(name, pipe)[1]) < 1e-5


def test_a_list_for_each_controlnet_is_not_one_for_each_row():
    """Two scales beside two rows, [negative, positive] of one image."""
    pipe = zoo.build("sd-controlnet")
    calls = [0, 0]
    nets = [pipe.controlnet, zoo.build("sd-controlnet").controlnet]
    for number, net in enumerate(nets):

        def count(module, args, kwargs, number=number):
            calls[number] += 1

        net.register_forward_pre_hook(count, with_kwargs=True)
    for parameter in nets[1].parameters():
        parameter.data.mul_(1.1)
    both = type(pipe)(
        **{**pipe.components, "controlnet": diffusers.MultiControlNetModel(nets)},
        requires_safety_checker=False,
    )
    both.set_progress_bar_config(disable=True)
    options = {"controlnet_conditioning_scale": [0.3, 1.0], "image": [zoo.pictures((0,))] * 2}
    own = zoo.run("sd-controlnet", both, rows=(0,), scale=1, **options)
    ours, _ = attached("sd-controlnet", CFG(1), both, rows=(0,), **options)
    assert calls == [8, 8]
    assert error(ours, own) < 1e-6


def test_frames_of_a_video_belong_to_their_prompt():
    words = torch.arange(12.0).view(12, 1)  # three frames of each of 4 rows
    inputs = Inputs((torch.zeros(4, 1), 5), {"encoder_hidden_states": words, "txt_ids": words})
    part = inputs.take([1, 3]).kwargs
    assert part["encoder_hidden_states"].flatten().tolist() == [3, 4, 5, 9, 10, 11]
    assert part["txt_ids"] is words


def test_guess_mode_stays_as_it_is():
    pipe = zoo.build("sd-controlnet")
    own = zoo.run("sd-controlnet", pipe, guess_mode=True)
    ours, _ = attached("sd-controlnet", CFG(5), pipe, guess_mode=True)
    assert error(own, zoo.run("sd-controlnet", pipe)) > 1e-3
    assert error(ours, own) < 1e-5


# Caches


def cached(name, config):
    pipe = zoo.build(name)
    pipe.transformer.enable_cache(config)
    return pipe


@pytest.mark.parametrize("name", ["flux", "cogvideox"])
def test_first_block_cache(name):
    """At a threshold that skips blocks, guiding at every step is the pipeline's own guidance."""
    pipe = cached(name, diffusers.FirstBlockCacheConfig(threshold=0.2))
    own = zoo.run(name, pipe, steps=8)
    assert error(own, zoo.run(name, zoo.build(name), steps=8)) > 1e-4  # blocks are skipped
    ours, _ = attached(name, CFG(5), pipe, steps=8)
    assert error(ours, own) < 1e-4
    if name == "flux":  # each forward has its own state: one may be left out
        skipping, run = attached(name, SKIPPING, pipe, steps=8)
        plain, _ = attached(name, SKIPPING, zoo.build(name), steps=8)
        assert run.nfe == 9
        assert error(skipping, plain) < 0.2
    else:
        with pytest.raises(ValueError, match=r"FirstBlockCacheConfig .* leaves some out"):
            attached(name, SKIPPING, pipe, steps=8)


def test_caches_that_do_not_know_their_rows_refuse_skipping():
    config = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    pipe = cached("flux", config)
    with pytest.raises(ValueError, match="PyramidAttentionBroadcastConfig of the Flux"):
        attached("flux", SKIPPING, pipe)
    pipe.transformer.disable_cache()
    assert attached("flux", SKIPPING, pipe)[1].nfe == 5


def test_a_cache_that_counts_its_forwards_refuses_skipping():
    """MagCache knows the step by how often each prompt's forward was called."""
    config = diffusers.MagCacheConfig(
        threshold=0.2, max_skip_steps=2, num_inference_steps=8, retention_ratio=0.1,
        mag_ratios=torch.linspace(1.0, 0.9, 8),
    )  # fmt: skip
    pipe = cached("flux", config)
    own = zoo.run("flux", pipe, steps=8)
    assert error(own, zoo.run("flux", zoo.build("flux"), steps=8)) > 1e-4  # blocks are skipped
    ours, _ = attached("flux", CFG(5), pipe, steps=8)
    assert error(ours, own) < 1e-4
    with pytest.raises(ValueError, match=r"MagCacheConfig .* leaves some out"):
        attached("flux", SKIPPING, pipe, steps=8)


# Offloading, LoRA, callbacks


def test_a_denoiser_that_is_moved_to_its_device_by_a_hook():
    """What ``enable_model_cpu_offload`` does to the denoiser, with the CPU as the device."""
    pipe = zoo.build("sd")
    plain, _ = attached("sd", APG(5), pipe)
    _, hook = cpu_offload_with_hook(pipe.unet, "cpu")
    for _ in range(2):  # the second call is where hooks were lost
        assert torch.equal(attached("sd", APG(5), pipe)[0], plain)
    hook.offload()
    remove_hook_from_module(pipe.unet)
    assert torch.equal(attached("sd", APG(5), pipe)[0], plain)


def test_a_lora_loaded_while_attached():
    peft = pytest.importorskip("peft")
    pipe = zoo.build("sd")
    plain, _ = attached("sd", CFG(5), pipe)
    with guided(pipe, CFG(5), quiet=True):
        config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        pipe.unet.add_adapter(config)
        with_lora = zoo.run("sd", pipe)
        pipe.unet.disable_adapters()
        without = zoo.run("sd", pipe)
    assert error(with_lora, plain) > 1e-3
    assert torch.equal(without, plain)
    pipe.unet.enable_adapters()
    assert error(with_lora, zoo.run("sd", pipe)) < 1e-5


def test_a_callback_sees_and_changes_the_latents():
    pipe = zoo.build("sd3")

    def call(pipe, i, t, values):
        return {"latents": values["latents"] * (0.5 if i == 1 else 1)}

    own = zoo.run("sd3", pipe, callback_on_step_end=call)
    ours, _ = attached("sd3", CFG(5), pipe, callback_on_step_end=call)
    assert error(own, zoo.run("sd3", pipe)) > 1e-3
    assert error(ours, own) < 1e-5


def test_inference_mode_outside_changes_nothing():
    pipe = zoo.build("wan")
    plain, _ = attached("wan", APG(5), pipe)
    with torch.inference_mode():
        assert torch.equal(attached("wan", APG(5), pipe)[0], plain)


def test_a_second_guidance_scale_is_only_a_switch():
    """Wan 2.2 has one for each of its networks; the guider says which it uses where."""
    pipe = zoo.build("wan22")
    own = zoo.run("wan22", pipe, scale=5, guidance_scale_2=3)
    with guided(pipe, CFG(lambda step: 5 if step.index < 2 else 3), quiet=True):
        ours = zoo.run("wan22", pipe)
    assert error(own, zoo.run("wan22", pipe, scale=5)) > 1e-3
    assert error(ours, own) < 1e-5


def test_the_plan_line_is_right_for_a_late_start(capsys):
    pipe = zoo.build("sd-img2img")
    with guided(pipe, CFG(5)) as run:
        zoo.run("sd-img2img", pipe)
    assert re.search("4 steps; at most 8 evaluations", capsys.readouterr().err)
    assert run.nfe == 8
    assert run.records[0].sigma < 5


def test_an_ip_adapter():
    pipe = zoo.build("sd")
    generator = torch.Generator().manual_seed(0)

    def weight(*shape):
        return torch.randn(*shape, generator=generator) / 4

    layers = {}
    for number, (name, _) in enumerate(pipe.unet.attn_processors.items()):
        if "attn2" in name:
            block = pipe.unet.get_submodule(name.removesuffix(".processor"))
            for part in ("to_k", "to_v"):
                width = getattr(block, part).out_features
                layers[f"{number}.{part}_ip.weight"] = weight(width, 32)
    projection = {
        "proj.weight": weight(4 * 32, 16), "proj.bias": weight(4 * 32),
        "norm.weight": torch.ones(32), "norm.bias": torch.zeros(32),
    }  # fmt: skip
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": layers}])
    pipe.set_ip_adapter_scale(1.0)

    picture, nothing = torch.ones(1, 1, 16), torch.zeros(1, 1, 16)  # for every prompt
    both = [torch.cat([nothing, picture])]
    own = zoo.run("sd", pipe, ip_adapter_image_embeds=both)
    without = zoo.run("sd", pipe, ip_adapter_image_embeds=[0 * both[0]])
    assert error(own, without) > 0.01
    ours, _ = attached("sd", CFG(5), pipe, ip_adapter_image_embeds=both)
    assert error(ours, own) < 1e-5
    mixed, run = attached("sd", CFG([1, 5]), pipe, ip_adapter_image_embeds=both)
    unguided = zoo.run("sd", pipe, scale=1, ip_adapter_image_embeds=[picture])
    assert run.last.evaluations == [4, 8]
    assert error(mixed[0], unguided[0]) < 1e-5
    assert error(mixed[1], own[1]) < 1e-5
