"""Networks that are changed for one prediction."""

import diffusers
import pytest
import tiny
import torch
import zoo
from accelerate import cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from calls import met, network_of, said
from diffusers.hooks import LayerSkipConfig, apply_layer_skip
from diffusers.models import attention_processor as processors
from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks
from errors import error
from guiders import (
    CFG,
    AdapterOff,
    Interval,
    PerturbedAttention,
    SkipLayers,
    SmoothedAttention,
    guided,
    to_diffusers,
)
from guiders.pipelines.patch.call_arguments import Inputs, choose
from zoo import attached

PERTURBED = [
    PerturbedAttention(),
    SmoothedAttention(1.0),
    SkipLayers(),
    SkipLayers(what="attention"),
    SkipLayers(what="feed_forward"),
]


def twice(inputs):
    """As Diffusers' processors want it: what is not perturbed, then what is."""
    rows = [*range(inputs.rows)] * 2
    return Inputs(*choose((inputs.args, inputs.kwargs), rows, inputs.rows))


def classes(network):
    return [type(module) for module in network.modules()]


# The same as Diffusers


@pytest.mark.parametrize(
    ("name", "module", "layers", "processor"),
    [
        ("sd", "mid_block.attentions.0.transformer_blocks.0.attn1", None, "IdentitySelfAttn"),
        ("sdxl", "up_blocks.0.attentions.1.transformer_blocks.1.attn1",
         "up_blocks.0.attentions.1.transformer_blocks.1", "IdentitySelfAttn"),
        ("sd3", "transformer_blocks.0.attn", 0, "JointAttn"),
        ("sd3", "transformer_blocks.1.attn", None, "JointAttn"),
        ("pixart-sigma", "transformer_blocks.1.attn1", 1, "IdentitySelfAttn"),
        ("hunyuan-dit", "blocks.1.attn1", "blocks.1", "HunyuanAttn"),
        ("sana", "transformer_blocks.1.attn1", None, "IdentitySanaLinearAttn"),
    ],
)  # fmt: skip
def test_perturbed_attention_is_that_of_diffusers(name, module, layers, processor):
    network, inputs = met(name)
    plain, ours = said(network, inputs), said(network, inputs, PerturbedAttention(layers))
    network.get_submodule(module).set_processor(
        getattr(processors, f"PAG{processor}Processor2_0")()
    )
    theirs = said(network, twice(inputs)).chunk(2)
    assert error(theirs[0], plain) < 1e-5
    assert error(ours, theirs[1]) < 1e-5
    assert error(ours, plain) > 1e-4


def test_a_run_with_cfg_is_that_of_the_pag_pipeline():
    """u + 5 (c - u) + 3 (c - p), with three evaluations."""
    guider = CFG(5) + CFG(4, reference=PerturbedAttention())
    pag = zoo.build("pag")
    pag.set_pag_applied_layers("mid")
    theirs = zoo.run("pag", pag, pag_scale=3.0)
    pipe = diffusers.StableDiffusionPipeline(
        **{name: part for name, part in pag.components.items() if name != "image_encoder"},
        requires_safety_checker=False,
    )
    pipe.unet.set_attn_processor(processors.AttnProcessor2_0())
    pipe.set_progress_bar_config(disable=True)
    ours, run = attached("sd", guider, pipe)
    assert run.nfe == 3 * len(run.records)
    assert error(ours, theirs) < 1e-5
    assert error(attached("sd", CFG(5), pipe)[0], theirs) > 1e-3


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
def test_skipped_layers_are_those_of_stable_diffusion_3(layers):
    network, inputs = met("sd3")
    theirs = network(*inputs.args, **inputs.kwargs, skip_layers=list(layers))[0]
    assert torch.equal(said(network, inputs, SkipLayers(layers)), theirs)


def test_a_run_of_skip_layer_guidance_is_that_of_stable_diffusion_3():
    pipe = zoo.build("sd3")
    options = {"skip_layer_guidance_scale": 2.8, "skip_layer_guidance_start": -0.1}
    theirs = zoo.run("sd3", pipe, skip_guidance_layers=[1], skip_layer_guidance_stop=1.0, **options)
    ours, run = attached("sd3", CFG(5) + CFG(3.8, reference=SkipLayers(1)), pipe)
    assert run.nfe == 12
    assert error(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("pixart-sigma", "attention"), ("cogview4", "attention"), ("pixart-sigma", "feed_forward"),
        ("wan", "feed_forward"), ("ltx", "feed_forward"), ("cogvideox", "feed_forward"),
    ],
)  # fmt: skip
def test_skipped_parts_are_those_of_diffusers_hooks(name, what):
    network, inputs = met(name)
    ours = said(network, inputs, SkipLayers(1, what))
    parts = {"skip_attention": what == "attention", "skip_ff": what != "attention"}
    apply_layer_skip(network, LayerSkipConfig([1], **parts))
    assert torch.equal(ours, said(network, inputs))


# In pipelines


@pytest.mark.parametrize("name", ["sd", "sdxl-controlnet", "sd3", "flux", "wan22"])
@pytest.mark.parametrize("reference", PERTURBED[:3], ids=str)
def test_a_batch_is_two_of_one_and_nothing_is_left_behind(name, reference):
    pipe = zoo.build(name)
    guider = CFG(5) + CFG(4, reference=reference)
    before, own = classes(network_of(pipe)), zoo.run(name, pipe, steps=2)
    both, run = attached(name, guider, pipe, steps=2)
    assert run.nfe == 6
    assert error(both, own) > 1e-4 or isinstance(reference, SmoothedAttention)
    alone = [attached(name, guider, pipe, rows=(row,), steps=2)[0] for row in (0, 1)]
    assert error(torch.cat(alone), both) < 1e-5
    assert classes(network_of(pipe)) == before
    assert torch.equal(zoo.run(name, pipe, steps=2), own)


def test_nothing_is_left_behind_after_an_exception():
    network, inputs = met("flux")
    before, plain = classes(network), said(network, inputs)
    hook = network.proj_out.register_forward_pre_hook(lambda *_: 1 / 0)
    for change in PERTURBED[:4]:
        with pytest.raises(ZeroDivisionError):
            said(network, inputs, change)
        assert classes(network) == before
    hook.remove()
    assert torch.equal(said(network, inputs), plain)


def test_no_negative_branch_is_needed_and_a_gate_spares_it():
    pipe = zoo.build("sd")
    guider = CFG(Interval(4, low=1, high=5), reference=PerturbedAttention())
    _, run = attached("sd", guider, pipe, scale=1)
    assert len(run.records) < run.nfe < 2 * len(run.records)


def test_several_layers_and_names_add_up():
    network, inputs = met("flux")
    by_number = said(network, inputs, SkipLayers((0, 1)))
    names = SkipLayers(("transformer_blocks.0", "single_transformer_blocks"))
    assert torch.equal(by_number, said(network, inputs, names))
    assert not torch.equal(by_number, said(network, inputs, SkipLayers(0)))


def test_a_transformer_of_many_blocks_loses_7_to_9():
    pipe = zoo.build("sd3")
    pipe.transformer = diffusers.SD3Transformer2DModel.from_config(
        pipe.transformer.config, num_layers=12
    ).eval()
    network, inputs = met("sd3", pipe)
    ours = said(network, inputs, SkipLayers())
    assert torch.equal(ours, said(network, inputs, SkipLayers((7, 8, 9))))
    assert torch.equal(ours, network(*inputs.args, **inputs.kwargs, skip_layers=[7, 8, 9])[0])


@pytest.mark.parametrize(
    ("name", "reference", "words"),
    [
        ("sd", SkipLayers(7), "layers: expected how names .* begin: .*mid_block.*, got 7"),
        ("sd", PerturbedAttention("down_blocks.0"), "begin: down_blocks.1, up_blocks.0, mid_block"),
        (
            "sd3",
            SkipLayers((0, 2)),
            "layers: expected a number from 0 to 1, or a name.*, got 2",
        ),
        ("flux", PerturbedAttention("mid_block"), "transformer_blocks.0, single_transformer_block"),
        (
            "flux",
            SkipLayers(1, "feed_forward"),
            "FluxSingleTransformerBlock without a feed",
        ),
        ("kandinsky22", PerturbedAttention(), "no blocks with self-attention are found"),
        ("sd", AdapterOff(), "the UNet2DConditionModel has no adapter"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_evaluated(name, reference, words):
    pipe, calls = zoo.build(name), []
    network_of(pipe).register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=words):
        attached(name, CFG(4, reference=reference), pipe)
    assert not calls


def test_attention_that_is_computed_otherwise_is_refused():
    pipe = zoo.build("sd")
    pipe.unet.set_attn_processor(processors.AttnProcessor())
    guider = CFG(4, reference=PerturbedAttention())
    with pytest.raises(RuntimeError, match="not computed by PyTorch's scaled dot product"):
        attached("sd", guider, pipe)


def test_a_cache_is_refused():
    pipe = zoo.build("flux")
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.2))
    for reference in (PerturbedAttention(), SkipLayers()):
        with pytest.raises(ValueError, match="has a FirstBlockCacheConfig, which would mix"):
            attached("flux", CFG(4, reference=reference), pipe)


def test_a_denoiser_that_is_moved_to_its_device_by_a_hook():
    pipe = zoo.build("sd")
    guider = CFG(5) + CFG(4, reference=PerturbedAttention()) + CFG(2, reference=SkipLayers())
    plain, _ = attached("sd", guider, pipe)
    _, hook = cpu_offload_with_hook(pipe.unet, "cpu")
    for _ in range(2):
        assert torch.equal(attached("sd", guider, pipe)[0], plain)
    hook.offload()
    remove_hook_from_module(pipe.unet)


@pytest.mark.parametrize("way", ["blocks", "wrapped"])
def test_a_compiled_network_runs_its_changed_forward_uncompiled(way):
    pipe = zoo.build("dit")
    guider = CFG(5) + CFG(4, reference=PerturbedAttention()) + CFG(2, reference=SkipLayers())
    plain, _ = attached("dit", guider, pipe, rows=(0,), steps=2)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    if way == "blocks":
        for block in pipe.transformer.transformer_blocks:
            block.compile(backend=backend)
    else:
        pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    with guided(pipe, guider, quiet=True):
        ours = zoo.run("dit", pipe, rows=(0,), steps=2)
        count = len(graphs)
        again = zoo.run("dit", pipe, rows=(0,), steps=2)
    assert len(graphs) == count > 0  # the other forwards are compiled, once
    assert error(ours, plain) < 1e-5
    assert torch.equal(again, ours)


def test_modular_pipelines_change_their_network_too():
    pipe = tiny.sdxl()
    modular = StableDiffusionXLAutoBlocks().get_workflow("text2image").init_pipeline()
    parts = {k: v for k, v in pipe.components.items() if k in modular.components}
    modular.update_components(**{k: v for k, v in parts.items() if v is not None})
    modular.set_progress_bar_config(disable=True)
    guider = CFG(5) + CFG(4, reference=PerturbedAttention()) + CFG(2, reference=SkipLayers())
    with guided(pipe, guider, quiet=True) as run:
        here = tiny.run(pipe, steps=2, height=16, width=16)
    assert run.nfe == 8
    before = classes(pipe.unet)
    modular.update_components(guider=to_diffusers(guider, modular.scheduler))
    there = modular(
        prompt=["red heart", "blue car"], num_inference_steps=2, latents=tiny.latents(),
        height=16, width=16, output_type="latent", output="images",
    )  # fmt: skip
    assert error(there, here) < 1e-5
    assert classes(pipe.unet) == before
