"""Perturbed references on real modules: equal to Diffusers' own where it has them, and no trace."""

import math

import diffusers
import pytest
import tiny
import torch
import torch.nn.functional as F
import zoo
from accelerate import cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
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
from guiders.pipelines.patch import attention
from guiders.pipelines.patch.attention import Sight, blur_matrix, blurred, identity
from guiders.pipelines.patch.call_arguments import Inputs, choose
from guiders.pipelines.patch.perturb import changed
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import attached

PERTURBED = [
    PerturbedAttention(),
    SmoothedAttention(1.0),
    SkipLayers(),
    SkipLayers(what="attention"),
    SkipLayers(what="feed_forward"),
]


def network_of(pipe):
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer


def met(name, pipe=None, **options):
    """A network of the zoo, and what its pipeline calls it with."""
    pipe, seen = pipe or zoo.build(name), []
    network = network_of(pipe)
    handle = network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(Inputs(args, kwargs)), with_kwargs=True
    )
    zoo.run(name, pipe, steps=2, **options)
    handle.remove()
    return network, seen[0]


def said(network, inputs, change=None):
    with torch.no_grad(), changed(network, change, inputs):
        return network(*inputs.args, **inputs.kwargs)[0]


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


# Smoothed attention


def seg(query, sigma, height, width):
    """The published blur: a depth-wise convolution after padding by reflection."""
    size = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    x = torch.linspace(-(size - 1) / 2, (size - 1) / 2, size)
    line = torch.exp(-0.5 * (x / sigma) ** 2)
    line = line / line.sum()
    image = query.transpose(-1, -2).reshape(-1, 1, height, width)
    image = F.conv2d(F.pad(image, [size // 2] * 4, mode="reflect"), line.outer(line)[None, None])
    return image.reshape(query.transpose(-1, -2).shape).transpose(-1, -2)


class SmoothProcessor:
    """A hand-written self-attention with blurred queries."""

    def __init__(self, blur):
        self.blur = blur

    def __call__(self, attn, hidden_states, *args, **kwargs):
        query, key, value = (
            part(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q, attn.to_k, attn.to_v)
        )
        weights = (self.blur(query) @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("sigma", [0.4, 0.8, None])
@pytest.mark.parametrize("size", [(16, 16), (16, 32)], ids=str)
def test_smoothed_attention_of_a_unet_is_the_one_written_by_hand(sigma, size):
    pipe = zoo.build("sd")
    tiny_height, tiny_width = size[0] // 2, size[1] // 2
    noise = torch.randn(2, 4, tiny_height, tiny_width, generator=torch.Generator().manual_seed(0))
    unet, inputs = met("sd", pipe, latents=noise, height=size[0], width=size[1])
    for parameter in unet.mid_block.attentions[0].transformer_blocks[0].attn1.parameters():
        parameter.data.mul_(5)  # or the map is almost uniform
    plain, ours = said(unet, inputs), said(unet, inputs, SmoothedAttention(sigma))

    def blur(query):
        if sigma is None:
            return query.mean(-2, keepdim=True).expand_as(query)
        return seg(query, sigma, tiny_height // 2, tiny_width // 2)

    unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(SmoothProcessor(blur))
    theirs = said(unet, inputs)
    assert error(ours, theirs) < 1e-5
    assert error(ours, plain) > 1e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 9), st.integers(4, 9), st.floats(0.1, 1.0))
def test_the_blur_is_the_published_convolution(height, width, sigma):
    query = zoo.fixed((0, 1), 2, height * width, 3)
    ours = blurred(query, (1, height, width), sigma)
    assert error(ours, seg(query, sigma, height, width)) < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.floats(0.05, 1e4))
def test_a_blur_of_any_width_keeps_constants_and_is_symmetric(size, sigma):
    matrix = blur_matrix(size, sigma)
    assert torch.allclose(matrix.sum(1), torch.ones(size).double())
    assert torch.allclose(matrix, matrix.flip(0, 1))
    assert (matrix >= 0).all()


def test_an_infinite_blur_is_the_mean_of_each_frame():
    query = zoo.fixed((0, 1), 2, 3 * 4 * 5, 6)
    mean, frames = blurred(query, (3, 4, 5), None), query.unflatten(-2, (3, 20))
    assert torch.allclose(mean.unflatten(-2, (3, 20)), frames.mean(-2, True).expand_as(frames))
    weights = torch.tensor([1.0, 2, 2, 2, 1]) / 8  # a wide one counts reflected edges half
    assert torch.allclose(blur_matrix(5, 1e4), weights.double().expand(5, 5), atol=1e-3)


GRIDS = {
    "sd": (1, 4, 4), "dit": (1, 4, 4), "hunyuan-dit": (1, 4, 4), "sd3": (1, 4, 4),
    "flux": (1, 4, 4), "qwen-image": (1, 4, 4), "wan": (2, 2, 2), "ltx": (2, 2, 2),
    "cogvideox": (2, 2, 2), "cogview4": None, "auraflow": None,
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_the_grid_of_tokens_is_found(name, monkeypatch):
    network, inputs = met(name)
    seen, smooth = [], attention.smooth

    def look(given, sight, grid, sigma):
        seen.append(grid)
        assert math.prod(grid) == sight.picture
        return smooth(given, sight, grid, sigma)

    monkeypatch.setattr(attention, "smooth", look)
    said(network, inputs, SmoothedAttention(1.0))
    height, width = inputs.x.shape[-2:]
    patch = getattr(network.config, "patch_size", 1)
    expected = GRIDS[name] or (1, height // patch, width // patch)
    assert set(seen) == {expected}


def test_sound_has_no_height_and_width():
    pipe = zoo.build("stable-audio")
    with pytest.raises(ValueError, match=r"9 tokens .* are not those of one picture"):
        attached("stable-audio", CFG(4, reference=SmoothedAttention()), pipe)


# Joint attention: the picture's tokens are perturbed, the text's are not


@pytest.mark.parametrize("first", [True, False])
def test_a_picture_token_sees_itself_and_the_text(first):
    query, key, value = zoo.fixed((0, 1, 2), 2, 7, 4)
    given = {"query": query[None], "key": key[None], "value": value[None]}
    ours = identity(given, Sight(5, 2, first))[0]
    picture = range(5) if first else range(2, 7)
    for token in range(7):
        if token in picture:
            sees = [token, *(other for other in range(7) if other not in picture)]
        else:
            sees = list(range(7))
        weights = (query[:, token, None] * key[:, sees]).sum(-1).div(2).softmax(-1)
        assert torch.allclose(ours[:, token], (weights[..., None] * value[:, sees]).sum(1))


@pytest.mark.parametrize("mask", ["bool", "float"])
def test_a_mask_of_the_texts_padding_is_kept(mask):
    query, key, value = zoo.fixed((0, 1, 2), 1, 2, 7, 4)
    allowed = torch.arange(7) < 6  # the last of two words is padding
    given = {"query": query, "key": key, "value": value, "attn_mask": allowed.expand(7, 7)}
    if mask == "float":
        given["attn_mask"] = torch.zeros(7, 7).masked_fill(~given["attn_mask"], -math.inf)
    ours = identity(given, Sight(5, 2))
    value[:, :, 6] = 100
    assert torch.equal(identity({**given, "value": value}, Sight(5, 2)), ours)


@pytest.mark.parametrize(
    ("name", "layer", "without"),
    [
        ("sd3", 0, None), ("flux", 0, None), ("flux", 1, 0), ("qwen-image", 0, None),
        ("cogvideox", 0, None), ("cogview4", 0, None), ("auraflow", 0, None), ("auraflow", 1, 0),
    ],
)  # fmt: skip
def test_the_pictures_tokens_are_told_from_the_texts(name, layer, without, monkeypatch):
    """What a first joint attention reads depends on the latents in the picture's tokens alone."""
    network, inputs = met(name)
    seen, answer = [], attention.identity

    def look(given, sight):
        seen.append((given["value"], sight))
        return answer(given, sight)

    monkeypatch.setattr(attention, "identity", look)
    others = inputs.differentiable(inputs.x.flip(-1) + 1)
    for one in (inputs, others):
        with changed(network, None if without is None else SkipLayers(without), one):
            said(network, one, PerturbedAttention(layer))
    (value, sight), (other, _) = seen
    same = (value == other).flatten(0, 1).all(-1).all(0)
    expected = torch.ones(sight.picture + sight.text, dtype=torch.bool)
    expected[sight.rows] = False
    assert sight.text >= zoo.WORDS
    assert torch.equal(same, expected)


def test_one_sequence_of_unknown_order_is_refused():
    pipe = zoo.build("lumina2")
    guider = CFG(4, reference=PerturbedAttention())
    with pytest.raises(ValueError, match="share one sequence in a Lumina2TransformerBlock"):
        attached("lumina2", guider, pipe)
    attached("lumina2", CFG(4, reference=SkipLayers()), pipe)


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


# Adapters


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
