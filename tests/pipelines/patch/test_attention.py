"""Attention that is smoothed or sees itself alone, and the places of its tokens."""

import math

import pytest
import torch
import torch.nn.functional as F
import zoo
from calls import met, said
from errors import error
from guiders import CFG, PerturbedAttention, SkipLayers, SmoothedAttention
from guiders.pipelines.patch import attention
from guiders.pipelines.patch.attention import Sight, blur_matrix, blurred, identity
from guiders.pipelines.patch.perturb import changed
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import attached


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
