"""Networks: the published arithmetic around them, and what is said where weights are missing."""

import sys
import types

import numpy as np
import pytest
import torch
from guiders.evals.features import inception
from guiders.evals.features.extractors import (
    IMAGENET,
    Network,
    fit_positions,
    load_network,
    weights_digest,
    weights_folder,
)
from torch import nn
from torch.nn.functional import interpolate
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 20, 12, 3), dtype=np.uint8)


class Pool(nn.Module):
    """A network of one's own."""

    labels = ("low", "high")

    def forward(self, x):
        return x.mean(dim=(2, 3))


def test_inception_has_the_published_number_of_weights_and_features():
    network = inception.Inception().eval()
    count = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("fc."))
    assert count == 21_785_568  # of Inception-v3 without its classifier
    assert sum(b.numel() for n, b in network.named_buffers() if "running_mean" in n) == 17_216
    assert network.fc.weight.shape == (1008, 2048)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 299, 299)).shape == (1, 2048)


def test_tensorflow_1_resizes_without_aligning_or_smoothing():
    row = torch.tensor([0.0, 10, 20, 30]).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    wide = inception.resize_tf1(row, 8)[0, 0, 0]
    assert wide.tolist() == [0, 5, 10, 15, 20, 25, 30, 30]  # pixel i lies at i / 2
    assert inception.resize_tf1(row, 2)[0, 0, 0].tolist() == [0, 20]  # every other one
    assert torch.equal(inception.resize_tf1(row, 4), row)


def test_pictures_are_resized_and_normalised_as_stated():
    network = Network("n", Pool(), 14, "bicubic", *IMAGENET)
    x = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 255
    x = interpolate(x, (14, 14), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    torch.testing.assert_close(network.prepare(PICTURES), (x - mean) / std, rtol=1e-4, atol=1e-5)
    mixed = network.prepare([PICTURES[0], PICTURES[1][:8]])
    torch.testing.assert_close(mixed[0], network.prepare(PICTURES[:1])[0])
    plain = Network("n", Pool(), resize="none")
    assert plain.prepare(PICTURES).shape == (3, 3, 20, 12)
    assert network.describe() == {"name": "n", "sha256": network.digest, "resize": "bicubic 14"}


def test_inception_takes_values_about_128_over_128(monkeypatch, tmp_path):
    torch.save(inception.Inception().state_dict(), tmp_path / inception.URL.split("/")[-1])
    monkeypatch.setenv("GUIDERS_WEIGHTS", str(tmp_path))
    network = load_network("inception")
    flat = np.full((1, 299, 299, 3), 192, np.uint8)
    torch.testing.assert_close(network.prepare(flat), torch.full((1, 3, 299, 299), 0.5))
    (tmp_path / inception.URL.split("/")[-1]).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="is not its weights"):
        load_network("inception")


def test_weights_that_are_not_there_are_named_with_their_place(monkeypatch, tmp_path):
    monkeypatch.setenv("GUIDERS_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(inception, "URL", "http://127.0.0.1:9/x/weights.pth")
    with pytest.raises(ValueError, match=f"put http.* at {weights_folder() / 'weights.pth'}"):
        load_network("inception")
    for name, files in (("dinov2", "facebook/dinov2-large"), ("clip-l", "openai/clip-vit-large")):
        with pytest.raises(
            ValueError, match=f"put the files of {files}.* {tmp_path}/weights/{name}"
        ):
            load_network(name)


def test_dinov2_from_a_folder_with_its_authors_positions(monkeypatch, tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=14
    )
    model = Dinov2Model(config).eval()
    model.embeddings.position_embeddings.data.normal_()
    model.save_pretrained(tmp_path / "dinov2")
    monkeypatch.setenv("GUIDERS_WEIGHTS", str(tmp_path))
    network = load_network("dinov2")
    assert network(PICTURES).shape == (3, 24)
    # Their code: scale_factor = (16 + 0.1) / 37, without smoothing.
    grid = model.embeddings.position_embeddings[:, 1:].view(1, 37, 37, 24).permute(0, 3, 1, 2)
    grid = interpolate(grid, scale_factor=16.1 / 37, mode="bicubic")
    assert grid.shape[2:] == (16, 16)
    theirs = grid.permute(0, 2, 3, 1).reshape(256, 24)
    ours = network.owner.embeddings.position_embeddings[0, 1:]
    torch.testing.assert_close(ours, theirs)
    fit_positions(model, 518)  # at its own size next to nothing changes
    assert model.embeddings.position_embeddings.shape == (1, 1 + 37 * 37, 24)


def test_any_clip_from_a_folder(tmp_path):
    import tiny

    config = CLIPConfig(
        text_config=tiny.text_config().to_dict(),
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 16, "patch_size": 8, "intermediate_size": 16},
        projection_dim=12,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    network = load_network(f"clip:{tmp_path}")
    assert network(PICTURES).shape == (3, 12)
    assert network.read(["red", "a blue car"]).shape == (2, 12)


def test_any_module_by_its_place(monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(Pool=Pool))
    network = load_network("mine:Pool")
    assert network(PICTURES).shape == (3, 3)
    assert network.labels == ("low", "high")
    for name, words in (
        ("nowhere:thing", "cannot be imported"), ("math:pi", "cannot be imported"),
        ("json:JSONDecoder", "a JSONDecoder; allowed is an nn.Module"),
        ("inceptoin", "allowed is one of emoji-clip"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            load_network(name)


def test_a_digest_is_of_names_and_numbers():
    torch.manual_seed(0)
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    assert weights_digest({"": one}) != weights_digest({"": two})
    two.load_state_dict(one.state_dict())
    assert weights_digest({"": one}) == weights_digest({"": two})
    assert weights_digest({"a": one}) != weights_digest({"b": one})
