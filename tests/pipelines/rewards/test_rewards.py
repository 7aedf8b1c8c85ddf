"""Rewards: real loading of tiny models, against the original architectures written out here."""

import io
import math

import numpy as np
import pytest
import tiny
import torch
from guiders import models
from guiders.pipelines.align import check_reward
from guiders.pipelines.rewards import NAMES, Preprocess, parse_reward
from guiders.pipelines.rewards.aesthetic import Aesthetic
from guiders.pipelines.rewards.clip import Clip, PickScore
from guiders.pipelines.rewards.count import Count
from guiders.pipelines.rewards.hps import HPSv2
from guiders.pipelines.rewards.image_reward import MEAN, STD, ImageReward
from guiders.pipelines.rewards.jpeg import Jpeg
from PIL import Image
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertTokenizer,
    CLIPModel,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PROMPTS = ["red heart", "a blue car"]


def pictures(height=24, width=24, count=2, seed=0):
    """Smooth pictures of 8 bits, (count, 3, height, width)."""
    rough = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(rough, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def pil(images):
    arrays = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in arrays]


def random_state(module, seed=0, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIPModel with its tokenizer, in a folder."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    config = CLIPModel.config_class(
        text_config=tiny.text_config().to_dict(), projection_dim=12,
        vision_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "image_size": 16, "patch_size": 8},
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (16, 16), (9, 21)])
def test_pictures_are_prepared_as_clip_prepares_them(shape):
    images = pictures(*shape)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    expected = processor(pil(images), return_tensors="pt").pixel_values
    found = Preprocess(16)(images)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2.1 / 255 / 0.26  # Pillow rounds twice on the way


def test_clip_is_the_cosine_of_its_model(clip):
    images = pictures()
    model, words = CLIPModel.from_pretrained(clip).eval(), tiny.tokenizer()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    tokens = words(PROMPTS, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        expected = model(
            pixel_values=processor(pil(images), return_tensors="pt").pixel_values,
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask,
        ).logits_per_image.diagonal()  # fmt: skip
        picked = PickScore(str(clip), str(clip))(images, PROMPTS)
        assert torch.allclose(picked, expected, rtol=0.02, atol=0.02)
        cosine = Clip(str(clip))(images, PROMPTS)
    assert torch.allclose(cosine * model.logit_scale.exp(), picked, atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (24, 40)])
def test_emoji_clip_is_the_shipped_models_cosine(shape):
    from guiders.evals import image_features, text_features

    images = pictures(*shape)
    model, words = models.load("emoji-clip"), models.tokenizer("emoji-clip")
    expected = F.cosine_similarity(
        image_features(model, pil(images)), text_features(model, words, PROMPTS)
    )
    assert torch.allclose(parse_reward("emoji-clip")(images, PROMPTS), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"emoji-judge.*never trained with"):
        parse_reward("0.5*emoji-judge")
    assert parse_reward("emoji-judge", judges=True)(images, PROMPTS).shape == (2,)


def test_aesthetic_is_the_head_on_the_normalised_features(clip, tmp_path):
    head = nn.Sequential(
        nn.Linear(12, 8), nn.Dropout(), nn.Linear(8, 6), nn.Dropout(), nn.Linear(6, 5),
        nn.Dropout(), nn.Linear(5, 4), nn.Linear(4, 1),
    )  # fmt: skip
    random_state(head)
    torch.save({f"layers.{k}": v for k, v in head.state_dict().items()},
               tmp_path / "aesthetic-model.pth")  # fmt: skip
    model = CLIPModel.from_pretrained(clip).eval()
    images = pictures()
    with torch.no_grad():
        features = model.get_image_features(pixel_values=Preprocess(16)(images)).pooler_output
        expected = head(F.normalize(features, dim=1)).squeeze(1)
        found = Aesthetic(str(clip), str(tmp_path))(images, PROMPTS)
    assert torch.allclose(found, expected, atol=1e-5)


class Block(nn.Module):
    """OpenCLIP's residual block."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 3 * width), "c_proj": nn.Linear(3 * width, width)}
        )

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class OpenClip(nn.Module):
    """OpenCLIP's two towers, with its names and its shapes."""

    def __init__(self, width=16, text=12, joint=8, vocabulary=514, length=16):
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, width, 8, 8, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.zeros(width))
        self.visual.positional_embedding = nn.Parameter(torch.zeros(5, width))
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.visual.transformer = nn.Module()
        self.visual.transformer.resblocks = nn.ModuleList(Block(width, 2) for _ in range(2))
        self.visual.proj = nn.Parameter(torch.zeros(width, joint))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(text, 2) for _ in range(3))
        self.token_embedding = nn.Embedding(vocabulary, text)
        self.positional_embedding = nn.Parameter(torch.zeros(length, text))
        self.ln_final = nn.LayerNorm(text)
        self.text_projection = nn.Parameter(torch.zeros(text, joint))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, images, ids):
        v = self.visual
        x = v.conv1(images).flatten(2).mT
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = v.ln_pre(x + v.positional_embedding)
        for block in v.transformer.resblocks:
            x = block(x)
        seen = v.ln_post(x[:, 0]) @ v.proj
        y = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((ids.shape[1],) * 2, -math.inf).triu(1)
        for block in self.transformer.resblocks:
            y = block(y, mask)
        read = self.ln_final(y)[torch.arange(len(y)), ids.argmax(dim=1)] @ self.text_projection
        return F.cosine_similarity(seen, read)


def test_hpsv2_is_open_clip(tmp_path):
    original = random_state(OpenClip())
    torch.save({"state_dict": original.state_dict()}, tmp_path / "HPS_v2.1_compressed.pt")
    tiny.tokenizer().save_pretrained(tmp_path / "words")
    reward = HPSv2(str(tmp_path), 2.1, str(tmp_path / "words"), heads=2).eval()
    ids = tiny.tokenizer()(PROMPTS, padding="max_length", max_length=16, return_tensors="pt")
    images = pictures()
    with torch.no_grad():
        expected = original(Preprocess(16)(images), ids.input_ids)
        assert torch.allclose(reward(images, PROMPTS), expected, atol=1e-5)
    assert (expected[0] - expected[1]).abs() > 1e-3
    with pytest.raises(ValueError, match=r"hpsv2: version is 3; allowed is 2 or 2.1"):
        HPSv2(str(tmp_path), 3)


class Vision(nn.Module):
    """The vision transformer of BLIP (timm's), with its names."""

    def __init__(self, width=16):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 8, 8)})
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(width, eps=1e-6), "norm2": nn.LayerNorm(width, eps=1e-6),
                "attn": nn.ModuleDict({"qkv": nn.Linear(width, 3 * width),
                                       "proj": nn.Linear(width, width)}),
                "mlp": nn.ModuleDict({"fc1": nn.Linear(width, 32), "fc2": nn.Linear(32, width)}),
            }) for _ in range(2)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images, heads=2):
        x = self.patch_embed["proj"](images).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            qkv = block["attn"]["qkv"](block["norm1"](x))
            q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + block["attn"]["proj"](y)
            x = x + block["mlp"]["fc2"](F.gelu(block["mlp"]["fc1"](block["norm2"](x))))
        return self.norm(x)


def bert_attention(state, prefix, x, to, heads, mask=None):
    def project(name, value):
        y = value @ state[f"{prefix}.self.{name}.weight"].T + state[f"{prefix}.self.{name}.bias"]
        return y.unflatten(2, (heads, -1)).transpose(1, 2)

    q, k, v = project("query", x), project("key", to), project("value", to)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    return bert_output(state, f"{prefix}.output", y, x)


def bert_output(state, prefix, y, x):
    y = y @ state[f"{prefix}.dense.weight"].T + state[f"{prefix}.dense.bias"]
    norm = (state[f"{prefix}.LayerNorm.{part}"] for part in ("weight", "bias"))
    return F.layer_norm(x + y, x.shape[-1:], *norm, eps=1e-12)


def bert(state, ids, mask, seen, heads=2):
    """The text encoder of BLIP: BERT, both ways, which looks at the picture in every layer."""
    x = state["embeddings.word_embeddings.weight"][ids]
    x = x + state["embeddings.position_embeddings.weight"][: ids.shape[1]]
    norm = (state[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias"))
    x = F.layer_norm(x, x.shape[-1:], *norm, eps=1e-12)
    for layer in (f"encoder.layer.{i}" for i in range(2)):
        x = bert_attention(state, f"{layer}.attention", x, x, heads, mask[:, None, None].bool())
        x = bert_attention(state, f"{layer}.crossattention", x, seen, heads)
        inner = f"{layer}.intermediate.dense"
        y = F.gelu(x @ state[f"{inner}.weight"].T + state[f"{inner}.bias"])
        x = bert_output(state, f"{layer}.output", y, x)
    return x[:, 0]


def test_image_reward_is_blip_and_its_head(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "heart", "a", "blue", "car"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "words")
    vision, generator = random_state(Vision()), torch.Generator().manual_seed(1)

    def normal(*shape):
        return 0.3 * torch.randn(shape, generator=generator)

    width = 12
    text = {
        "embeddings.word_embeddings.weight": normal(len(words), width),
        "embeddings.position_embeddings.weight": normal(40, width),
        **{f"embeddings.LayerNorm.{part}": 1 + normal(width) for part in ("weight", "bias")},
    }
    for i in range(2):
        shapes = {
            **{f"{kind}.self.{name}": (width, 16 if kind[0] == "c" and name != "query" else width)
               for kind in ("attention", "crossattention") for name in ("query", "key", "value")},
            **{f"{kind}.output.dense": (width, width) for kind in ("attention", "crossattention")},
            "intermediate.dense": (20, width), "output.dense": (width, 20),
        }  # fmt: skip
        for name, shape in shapes.items():
            text[f"encoder.layer.{i}.{name}.weight"] = normal(*shape)
            text[f"encoder.layer.{i}.{name}.bias"] = normal(shape[0])
            if "output" in name:
                norm = f"encoder.layer.{i}.{name.replace('dense', 'LayerNorm')}"
                text |= {f"{norm}.weight": 1 + normal(width), f"{norm}.bias": normal(width)}
    head = random_state(nn.Sequential(nn.Linear(width, 6), nn.Dropout(), nn.Linear(6, 1)))
    torch.save({
        **{f"blip.visual_encoder.{k}": v for k, v in vision.state_dict().items()},
        **{f"blip.text_encoder.{k}": v for k, v in text.items()},
        "blip.text_encoder.embeddings.position_ids": torch.arange(40)[None],
        **{f"mlp.layers.{k}": v for k, v in head.state_dict().items()},
    }, tmp_path / "ImageReward.pt")  # fmt: skip
    reward = ImageReward(str(tmp_path), str(tmp_path / "words"), 2, 2).eval()
    tokens = reward.tokenizer(PROMPTS, padding="max_length", max_length=35, return_tensors="pt")
    images = pictures()
    with torch.no_grad():
        seen = vision(Preprocess(16)(images))
        read = bert(text, tokens.input_ids, tokens.attention_mask, seen)
        expected = (head(read).squeeze(1) - MEAN) / STD
        assert torch.allclose(reward(images, PROMPTS), expected, atol=1e-4)
    assert (expected[0] - expected[1]).abs() > 1e-3
    check_reward(reward, images, PROMPTS)


def test_counting_is_the_sum_of_the_detectors_chances(tmp_path):
    torch.manual_seed(0)
    model = YolosForObjectDetection(YolosConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=[32, 32], patch_size=8, num_detection_tokens=5, initializer_range=0.5,
        label2id={"cat": 0, "dog": 1, "car": 2}, id2label={0: "cat", 1: "dog", 2: "car"},
    )).eval()  # fmt: skip
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "YolosImageProcessor", "size": {"shortest_edge": 32, '
        '"longest_edge": 48}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, '
        "0.225]}"
    )
    images = pictures(20, 30)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    resized = F.interpolate(images, (32, 48), mode="bilinear", antialias=True)
    with torch.no_grad():
        chances = model(pixel_values=(resized - mean) / std).logits.softmax(dim=-1)
        found = Count(str(tmp_path))(images, PROMPTS)
        assert torch.allclose(found, (1 - chances[..., 3]).sum(dim=1), atol=1e-5)
        dogs = Count(str(tmp_path), "dog", target=2)(images, PROMPTS)
        assert torch.allclose(dogs, -(chances[..., 1].sum(dim=1) - 2).abs(), atol=1e-5)
    with pytest.raises(ValueError, match="count: label is 'cow'; allowed is one of cat, dog, car"):
        Count(str(tmp_path), "cow")
    check_reward(Count(str(tmp_path)), images, PROMPTS)


@pytest.mark.parametrize("quality", [50, 95])
def test_the_jpeg_proxy_ranks_pictures_as_their_files(quality):
    generator = np.random.default_rng(0)
    images = []
    for kind in range(40):
        size = int(generator.integers(3, 60))
        rough = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(kind))
        smooth = F.interpolate(rough, (64, 64), mode="bilinear")
        images.append(0.5 + (smooth - 0.5) * float(generator.uniform(0.1, 1)))
    images = (torch.cat(images) * 255).round() / 255
    sizes = []
    for picture in pil(images):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        sizes.append(file.tell())
    found = Jpeg(quality)(images, [""] * 40)
    assert spearmanr(-found.numpy(), sizes).statistic > 0.99
    assert np.corrcoef(-found.numpy(), sizes)[0, 1] > 0.97


def test_what_needs_no_network():
    red, grey = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    red[:, 0] = 1
    values = {
        "brightness": (0.299, 0.5), "saturation": (1, 0), "colour": (0, -0.25),
        "colour(red=0.5, green=0.5, blue=0.5)": (-0.25, 0),
        "2*brightness + -1*saturation": (0.598 - 1, 1.0),
    }  # fmt: skip
    for text, expected in values.items():
        reward = parse_reward(text)
        found = [reward(images, ["x"]).item() for images in (red, grey)]
        assert found == pytest.approx(expected, abs=1e-6), text


def test_a_reward_of_your_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def darkness(images, prompts):\n    return -images.mean(dim=(1, 2, 3))\n"
        "class Level(torch.nn.Module):\n"
        "    def __init__(self, level=0.0):\n"
        "        super().__init__()\n        self.level = level\n"
        "    def forward(self, images, prompts):\n"
        "        return -(images.mean(dim=(1, 2, 3)) - self.level).abs()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    grey = torch.full((1, 3, 4, 4), 0.5)
    assert parse_reward("mine:darkness")(grey, [""]).item() == -0.5
    assert parse_reward("mine:Level(level=0.25) + mine:darkness")(grey, [""]).item() == -0.75
    with pytest.raises(ValueError, match="is a function; allowed are settings for classes"):
        parse_reward("mine:darkness(level=1)")


@pytest.mark.parametrize(("text", "complaint"), [
    ("beauty", "reward is 'beauty'; allowed is one of emoji-clip"),
    ("nowhere:at_all", "reward is 'nowhere:at_all'; allowed is what can be imported"),
    ("x*brightness", "weight 'x'; allowed is a number"),
    ("brightness(size=3)", "brightness has no setting 'size'; allowed is none"),
    ("jpeg(quality)", "setting 'quality'; allowed is KEY=VALUE"),
    ("jpeg(quality=100)", "quality is 100.0; allowed is a number from 1 to 95"),
    ("brightness+", "has the part ''"),
    ("clip(model=NONE/HERE)", "NONE/HERE, which is neither here nor could be fetched"),
    ("aesthetic(model=/nowhere/at/all)", "neither here nor could be fetched"),
])  # fmt: skip
def test_what_is_not_allowed(text, complaint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=complaint) as raised:
        parse_reward(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["emoji-clip", "brightness", "saturation", "colour", "jpeg"])
def test_rewards_have_gradients(name):
    assert name in NAMES
    noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    check_reward(parse_reward(name), noise, PROMPTS)


@pytest.mark.parametrize(("reward", "complaint"), [
    (lambda x, p: x.mean(), r"gives \(\) for 2 images; allowed is a tensor \(2,\)"),
    (lambda x, p: x.mean(dim=(2, 3)), r"gives \(2, 3\) for 2 images"),
    (lambda x, p: [1.0, 2.0], "gives list for 2 images"),
    (lambda x, p: x.mean(dim=(1, 2, 3)) / 0, r"gives \[inf, inf\]; allowed are finite numbers"),
    (lambda x, p: x.detach().mean(dim=(1, 2, 3)), "has no gradient"),
    (lambda x, p: x.round().mean(dim=(1, 2, 3)), "has no gradient"),
    (lambda x, p: (x - x).sum(dim=(1, 2, 3)).sqrt(), "gradient that is not finite"),
])  # fmt: skip
def test_a_reward_that_does_not_work(reward, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_reward(reward, pictures(), PROMPTS)
