"""The companions of the emoji model: they load anywhere, and do what they are for."""

import hashlib

import numpy as np
import pytest
import torch
from guiders import CFG, WeakModel, guided, models
from guiders.evals import Moments, frechet_distance, image_features, text_features
from guiders.evals.features.extractors import load_network
from guiders.evals.storage.pictures import to_tensor
from guiders.pipelines.context.classifiers import load_classifier
from guiders.pipelines.rewards import parse_reward
from PIL import Image
from torch.nn.functional import normalize

FOLDER = models.path("emoji").parent
HEARTS = ["red heart", "green heart", "blue heart", "yellow heart"]


@pytest.fixture(scope="module")
def pipe():
    pipe = models.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def hearts(pipe):
    with guided(pipe, CFG(5), quiet=True):
        return pipe(
            [f"{name}, noto style" for name in HEARTS], num_inference_steps=12,
            generator=[torch.Generator().manual_seed(1) for _ in HEARTS],
        ).images  # fmt: skip


def test_every_file_is_the_one_that_was_made():
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    binary = {p for p in FOLDER.rglob("*") if p.suffix in (".safetensors", ".npz")}
    assert set(sums) == {path.relative_to(FOLDER).as_posix() for path in binary}
    for name, digest in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_all_together_are_small_and_safe():
    files = [p for p in FOLDER.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(path.stat().st_size for path in files) < 60e6
    assert max(path.stat().st_size for path in files) < 20e6
    allowed = {".safetensors", ".npz", ".json", ".txt", ".md", ".py", ""}
    assert {path.suffix for path in files} <= allowed
    for name in models.NAMES:
        assert (models.path(name) / "README.md").is_file()


@pytest.mark.parametrize("name", [name for name in models.NAMES if name != "emoji"])
def test_a_network_loads_for_inference_in_single_precision(name):
    network = models.load(name)
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert models.load(name, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["emoji-clip", "emoji-judge"])
def test_an_image_text_model_knows_the_colours_of_hearts(name, hearts):
    model = models.load(name)
    images = normalize(image_features(model, hearts), dim=1)
    texts = normalize(text_features(model, models.tokenizer(name), HEARTS), dim=1)
    assert (images @ texts.T).argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_judges_see_the_means_of_areas():
    picture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    seen = models.judged(picture)
    assert seen.shape == (1, 3, 32, 32)
    assert torch.allclose(seen[0, 1, 4, 5], picture[0, 1, 8:10, 15:18].mean())
    assert models.judged(seen) is seen


@pytest.mark.parametrize("name", ["emoji-clip", "emoji-judge", "emoji-classifier"])
def test_a_picture_scores_as_its_average_does(name):
    """All ways to a judge take pictures of any size, and see the same of them."""
    small = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    network = load_network(name)
    assert torch.equal(network(small), network(large))
    prompts = HEARTS if name != "emoji-classifier" else ["food", "symbols"]
    classify = load_classifier(name, prompts, torch.device("cpu"))
    assert torch.equal(classify(to_tensor(small)), classify(to_tensor(large)))
    if name != "emoji-classifier":
        model = models.load(name)
        assert torch.equal(image_features(model, small), image_features(model, large))
        reward = parse_reward(name, judges=True)
        shown = [(to_tensor(x) + 1) / 2 for x in (small, large)]
        assert torch.equal(*(reward(x, HEARTS) for x in shown))
        texts = text_features(model, models.tokenizer(name), HEARTS)
        assert torch.equal(network.read(HEARTS), texts)


def test_the_two_judges_are_not_one(hearts):
    clip, judge = models.load("emoji-clip"), models.load("emoji-judge")
    assert type(clip) is not type(judge)
    ours, theirs = (normalize(image_features(m, hearts), dim=1) for m in (clip, judge))
    assert not torch.allclose(ours @ ours.T, theirs @ theirs.T, atol=0.02)


def test_a_score_of_emoji_clip_can_be_climbed(hearts):
    """A differentiable reward: following the gradient turns a red heart's score for green up."""
    clip = models.load("emoji-clip")
    text = normalize(text_features(clip, models.tokenizer("emoji-clip"), ["green heart"]), dim=1)
    picture = to_tensor(hearts[:1]).requires_grad_()

    def score():
        features = clip.get_image_features(pixel_values=models.judged(picture)).pooler_output
        return (normalize(features, dim=1) * text).sum()

    before = score()
    before.backward()
    with torch.no_grad():
        picture += 0.02 * picture.grad.sign()
    assert score() > before + 0.01


def test_the_weak_model_is_a_worse_version_of_the_same(pipe):
    weak = models.load("emoji-weak")
    count = [sum(p.numel() for p in unet.parameters()) for unet in (pipe.unet, weak)]
    assert count[1] < count[0] / 3
    x = torch.randn(8, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    words = pipe.encode_prompt(["cat face, noto style"] * 8, "cpu", 1, False)[0]
    with torch.no_grad():
        a, b = (unet(x, 700, encoder_hidden_states=words).sample for unet in (pipe.unet, weak))
    assert torch.cosine_similarity(a.flatten(1), b.flatten(1)).min() > 0.8
    with guided(pipe, CFG(2, reference=WeakModel(weak)), quiet=True) as run:
        pipe(["red heart"] * 2, num_inference_steps=4)
    assert run.nfe == 8


def test_the_classifier_names_nine_categories_with_a_temperature(hearts):
    classifier = models.load("emoji-classifier")
    assert sorted(classifier.config.label2id) == [
        "activities", "flags", "food", "nature", "objects", "people", "smileys", "symbols",
        "travel",
    ]  # fmt: skip
    assert 0.3 < classifier.config.calibration_temperature < 3
    with torch.no_grad():
        share = classifier(models.judged(to_tensor(hearts))).logits.softmax(dim=1)
    kinds = [classifier.config.label2id[name] for name in ("smileys", "symbols")]
    assert share[:, kinds].sum(dim=1).mean() > 1 / 3


def test_the_statistics_are_those_of_their_features(hearts):
    for of, count in (("train", 8692), ("held-out", 1013)):
        path = models.statistics("emoji-clip", of)
        moments = Moments.load(path)
        with np.load(path) as data:
            features = data["features"].astype(np.float64)
        assert moments.count == len(features) == count
        assert frechet_distance(moments, Moments.of(features)) < 1e-3
        assert Moments.load(models.statistics("emoji-judge", of)).count == count


@pytest.mark.parametrize("network", ["emoji-clip", "emoji-judge"])
def test_unseen_pictures_are_near_and_noise_is_far(network):
    train = Moments.load(models.statistics(network))
    near = frechet_distance(train, Moments.load(models.statistics(network, "held-out")))
    noise = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(picture) for picture in noise]
    far = frechet_distance(train, Moments.of(image_features(models.load(network), pictures)))
    assert far > 5 * near


def test_what_there_is_not_is_said():
    with pytest.raises(ValueError, match="expected one of emoji, emoji-weak, emoji-clip"):
        models.load("clip")
    with pytest.raises(
        ValueError, match=r"expected one of emoji-clip-held-out.*, got emoji-clip-test"
    ):
        models.statistics("emoji-clip", "test")
