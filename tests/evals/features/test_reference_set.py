"""Real pictures in everybody's format, read to the same figure."""

import pickle

import numpy as np
import pytest
import torch
from guiders import models
from guiders.evals import Moments, frechet_distance
from guiders.evals.features.extractors import Network, load_network
from guiders.evals.features.reference_set import load_reference
from guiders.evals.runs import measure
from guiders.evals.runs.registry import parse_metrics
from guiders.evals.storage.processes import Processes
from PIL import Image


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, size=(150, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    return load_network("emoji-clip")


@pytest.fixture(scope="module")
def directory(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:04d}.png")
    return folder


@pytest.fixture(scope="module")
def drawn(network, pictures):
    return Moments.of(network(255 - pictures // 2))


@pytest.fixture(scope="module")
def figure(network, directory, drawn):
    """The distance to the folder."""
    return frechet_distance(drawn, load_reference(str(directory), network).moments)


def of(reference, drawn):
    return frechet_distance(drawn, reference.moments)


def test_a_folder_is_its_pictures(network, directory, pictures, drawn, figure):
    reference = load_reference(str(directory), network)
    torch.testing.assert_close(reference.features, network(pictures), rtol=1e-4, atol=1e-4)
    assert reference.describe()["pictures"] == 150
    assert figure == pytest.approx(frechet_distance(drawn, Moments.of(network(pictures))), rel=1e-6)


def test_npz_of_pytorch_fid_and_edm2(network, pictures, drawn, figure, tmp_path):
    x = network(pictures).double().numpy()
    np.savez(tmp_path / "edm2.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    assert of(load_reference(str(tmp_path / "edm2.npz"), network), drawn) == pytest.approx(
        figure, rel=1e-6
    )


def test_npz_of_adm(pictures, drawn, figure, tmp_path):
    # mu and sigma are Inception's: used for it, and passed over for another network.
    network = load_network("emoji-clip")
    x = network(pictures).double().numpy()
    adm = {"arr_0": pictures, "mu": np.zeros(7), "sigma": np.eye(7), "mu_s": np.zeros(9)}
    np.savez(tmp_path / "adm.npz", **adm, sigma_s=np.eye(9))
    other = load_reference(str(tmp_path / "adm.npz"), network)
    assert of(other, drawn) == pytest.approx(figure, rel=1e-6)
    assert other.features.shape == (150, 96)
    network.name = "inception"
    np.savez(tmp_path / "its.npz", **adm | {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)})
    its = load_reference(str(tmp_path / "its.npz"), network)
    assert of(its, drawn) == pytest.approx(figure, rel=1e-6)
    assert its.features is None


def test_pkl_of_edm2(pictures, drawn, figure, tmp_path):
    network = load_network("emoji-clip")
    x = network(pictures).double().numpy()
    statistics = {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)}
    data = {"fid": {"mu": np.zeros(3), "sigma": np.eye(3)}, "fd_dinov2": statistics}
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(ValueError, match="holds fid, fd_dinov2; needed is emoji-clip"):
        load_reference(str(tmp_path / "edm2.pkl"), network)
    network.name = "dinov2"
    assert of(load_reference(str(tmp_path / "edm2.pkl"), network), drawn) == pytest.approx(
        figure, rel=1e-6
    )


def test_a_pickle_runs_nothing(network, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"fid": Evil()}))
    with pytest.raises(ValueError, match=r"names _?io\.open; allowed are arrays"):
        load_reference(str(tmp_path / "evil.pkl"), network)
    assert not (tmp_path / "owned").exists()


def test_a_data_set_of_the_hub(network, directory, drawn, figure, tmp_path, monkeypatch):
    # A folder of pictures is the one form of a Hub data set that needs no network.
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    reference = load_reference(f"hub:{directory}", network)
    assert of(reference, drawn) == pytest.approx(figure, rel=1e-6)
    with pytest.raises(ValueError, match="has the columns image; needed is photo"):
        load_reference(f"hub:{directory}:train:photo", network)


def test_what_ships_is_what_it_says(network):
    train = load_reference("train", network)
    assert train.moments.count == len(train.features) == 8692
    shipped = Moments.load(models.statistics("emoji-clip"))
    assert frechet_distance(train.moments, shipped) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(train.moments, load_reference("held-out", network).moments) < 3
    judge = load_reference("train", load_network("emoji-judge"))
    assert judge.features is None


def test_what_cannot_be_read_is_named(network, directory, tmp_path):
    def complaint(source):
        with pytest.raises(ValueError) as caught:
            load_reference(str(source), network)
        return str(caught.value)

    whole = (directory / "0003.png").read_bytes()
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(3):
        (broken / f"{number}.png").write_bytes(whole if number != 1 else whole[:900])
    assert f"picture {broken / '1.png'} cannot be read" in complaint(broken)
    np.savez(tmp_path / "whole.npz", mu=np.zeros(96), sigma=np.eye(96))
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(data[: len(data) // 2])
    assert "half.npz cannot be read" in complaint(tmp_path / "half.npz")
    np.savez(tmp_path / "nan.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    assert "nan.npz hold NaN or infinite" in complaint(tmp_path / "nan.npz")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    assert "other.npz holds mean; needed are mu and sigma" in complaint(tmp_path / "other.npz")
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((3, 8, 8, 3)))
    assert "type float64; allowed is (N, H, W, 3) uint8" in complaint(tmp_path / "floats.npz")
    (tmp_path / "bad.pkl").write_bytes(b"nonsense")
    assert "bad.pkl cannot be read" in complaint(tmp_path / "bad.pkl")
    assert "allowed is train or held-out" in complaint("nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds 0 pictures; needed are at least 2" in complaint(tmp_path / "empty")


def test_statistics_of_another_network_are_refused(network, drawn, tmp_path):
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ValueError, match=r"wide\.npz has 2048 features .* emoji-clip gives 96"):
        load_reference(str(tmp_path / "wide.npz"), network)


def test_a_reference_is_looked_at_before_its_network(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "load_network", lambda name: pytest.fail(f"{name} is loaded"))
    np.savez(tmp_path / "other.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.npz").write_bytes(b"PK")
    for source, words in (
        ("nowhere", "reference is 'nowhere'; allowed is train"),
        (
            str(tmp_path / "other.npz"),
            "holds images; needed are mu and sigma, or pictures as arr_0",
        ),
        (str(tmp_path / "empty"), "holds 0 pictures"),
        (str(tmp_path / "torn.npz"), "cannot be read"),
        ("train", "statistics: expected .*, got dinov2-train"),
    ):
        with pytest.raises(ValueError, match=words):
            measure.Judges.load(parse_metrics("fd:dinov2", ""), source, Processes("cpu"))


def test_a_network_that_gives_nan_or_the_wrong_shape_is_named(pictures):
    nan = Network("nan", lambda x: x.flatten(1) / (x.flatten(1) < 9) * torch.nan)
    with pytest.raises(ValueError, match="network nan: features of picture 0 are NaN"):
        nan(pictures[:2])
    flat = Network("flat", lambda x: x)
    with pytest.raises(ValueError, match=r"flat gives \(2, 3, 32, 32\) for 2 pictures"):
        flat(pictures[:2])


class _Made:
    """Pickled as a call of ``numpy.ndarray`` with somebody's own bytes as pointers."""

    def __reduce__(self):
        return np.ndarray, ((4,), np.dtype("O"), b"A" * 32)


def test_a_pkl_makes_no_objects_of_its_bytes(tmp_path):
    for value in (_Made(), {"mu": _Made(), "sigma": _Made()}):
        (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"emoji-clip": value}))
        with pytest.raises(ValueError, match=r"bad\.pkl"):
            load_reference(str(tmp_path / "bad.pkl"), load_network("emoji-clip"))
