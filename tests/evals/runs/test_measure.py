"""From rows to figures: what is kept, what is streamed, what is compared with what."""

import functools
import json

import numpy as np
import pytest
import tiny
import torch
from guiders import APG, CFG
from guiders.evals.features.extractors import Network
from guiders.evals.metrics.similarity import lpips, psnr, ssim
from guiders.evals.runs import measure as module
from guiders.evals.runs.evaluate import evaluate
from guiders.evals.runs.images import Drawing, Gallery
from guiders.evals.runs.manifest import Request
from guiders.evals.runs.measure import Judges, measure
from guiders.evals.runs.plan import Plan
from guiders.evals.runs.registry import hits, parse_metrics, scores
from guiders.evals.storage.processes import Processes
from guiders.evals.storage.prompts import load_prompts
from guiders.pipelines.generation.settings import Settings
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

SETS = "fd,kid,cmmd,precision,recall,density,coverage"


@pytest.fixture(scope="module")
def judges():
    wanted = parse_metrics(SETS + ",clip,class", "emoji")
    return Judges.load(wanted, "held-out", Processes("cpu"))


def test_every_metric_of_one_run(drawing, judges, tmp_path):
    wanted = parse_metrics(
        f"{SETS},saturation,clipped-ink,nfe,seconds,memory,effective-scale", "emoji"
    )
    run = drawing(guider=CFG(3), count=8)
    found = measure(run, wanted, judges, tmp_path / "rows")
    assert list(found) == [one.key for one in wanted]
    assert found["nfe"].value == 4
    assert found["effective-scale"].value == 3
    assert found["seconds"].value > 0
    assert found["memory"].value > 10
    assert found["fd:emoji-clip"].estimate.low < found["fd:emoji-clip"].value
    drawn = run.drawn
    again = measure(run, wanted, judges, tmp_path / "rows")
    assert run.drawn == drawn
    assert all(again[key].value == found[key].value for key in found)


def test_rows_that_are_damaged_are_measured_again(drawing, judges, tmp_path):
    run, wanted = drawing(), parse_metrics("fd,saturation", "emoji")
    found = measure(run, wanted, judges, tmp_path)
    (file,) = (tmp_path / "rows" / "colour").glob("00001*")
    file.write_bytes(file.read_bytes()[:100])
    drawn = run.drawn
    assert measure(run, wanted, judges, tmp_path)["saturation"].value == found["saturation"].value
    assert run.drawn == drawn  # from the picture


def test_streamed_moments_give_the_figure_of_all_features(drawing, judges, tmp_path, monkeypatch):
    run, wanted = drawing(), parse_metrics("fd", "emoji")
    kept = measure(run, wanted, judges, tmp_path)["fd:emoji-clip"]
    monkeypatch.setattr(module, "LARGE", 3)
    streamed = measure(run, wanted, judges, tmp_path)["fd:emoji-clip"]
    assert streamed.value == pytest.approx(kept.value, rel=1e-6)
    assert streamed.draws is None


def test_without_pictures_nothing_but_features_is_stored_and_figures_are_the_same(
    drawing, judges, tmp_path
):
    wanted = parse_metrics("fd,saturation,nfe", "emoji")
    kept = measure(drawing(), wanted, judges, tmp_path / "a")
    bare_run = drawing(out="bare", keep=False)
    bare = measure(bare_run, wanted, judges, tmp_path / "b")
    assert {k: f.value for k, f in kept.items()} == {k: f.value for k, f in bare.items()}
    assert not list((tmp_path / "bare").rglob("*.png"))
    assert bare_run.drawn == 9
    measure(bare_run, wanted, judges, tmp_path / "b")
    assert bare_run.drawn == 9  # nothing is drawn for a figure that is there


def test_similarity_is_torchmetrics_and_to_the_same_seed(drawing, judges, tmp_path):
    one, other = drawing(count=6), drawing(guider=CFG(9), count=6, out="other")
    for run in (one, other):
        for batch in range(2):
            run.pictures(batch)
    wanted = parse_metrics("ssim,psnr", "emoji")
    baseline = Gallery(other.folder / "pictures")
    found = measure(one, wanted, judges, tmp_path / "rows", baseline=baseline)
    x, y = (
        torch.stack([torch.from_numpy(np.array(r.picture(n))).permute(2, 0, 1) for n in range(6)])
        / 255
        for r in (one, other)
    )
    theirs = StructuralSimilarityIndexMeasure(data_range=1.0)(x, y)
    # Float32, batch by batch here: variances of flat places are rounding.
    assert found["ssim"].value == pytest.approx(float(theirs), rel=1e-4)
    theirs = PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))(x, y)
    assert found["psnr"].value == pytest.approx(float(theirs), rel=1e-5)
    same = [one.picture(0)]
    assert psnr(same, same)[0] == 100
    assert ssim(same, same)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="metric lpips needs torchvision"):
        lpips(same, same)
    with pytest.raises(ValueError, match="allowed is one size"):
        psnr(same, [same[0].resize((8, 8))])


def test_scores_and_classes():
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    texts = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    reader = Network("r", lambda x: x, read=lambda words: torch.tensor([texts[w] for w in words]))
    np.testing.assert_allclose(
        scores(features, reader, ["a", "a", "b"]), [100, 0, 100 / np.sqrt(2)], atol=1e-12
    )
    classifier = Network("c", lambda x: x, labels=("low", "high"))
    np.testing.assert_array_equal(hits(features, classifier, ["low", "low", ""]), [1, 0, np.nan])
    with pytest.raises(ValueError, match="allowed is one that reads text"):
        scores(features, classifier, ["a"] * 3)
    with pytest.raises(ValueError, match="allowed is a classifier"):
        hits(features, reader, ["low"] * 3)
    with pytest.raises(ValueError, match=r"labels \['cat'\]; allowed are those of c: low, high"):
        hits(features, classifier, ["cat"] * 3)


def test_metrics_by_name():
    names = [one.key for one in parse_metrics("fid, fd,clip,nfe,fd", "sdxl")]
    assert names == ["fd:inception", "fd:dinov2", "clip:clip-l", "nfe"]
    assert parse_metrics("cmmd-clip", "emoji")[0].key == "cmmd:clip-l-336"
    for text, words in (
        ("fdd", "metrics has 'fdd'; allowed is one of fd, kid"),
        ("saturation:dinov2", "allowed is saturation, which uses no network"),
        (" , ", "needed is at least one"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_metrics(text, "emoji")
    with pytest.raises(ValueError, match="allowed is class:NETWORK"):
        parse_metrics("class", "sdxl")


def test_class_numbers_are_prompts_too(tmp_path):
    from zoo import build

    pipe = build("dit")
    pipe.set_progress_bar_config(disable=True)
    (tmp_path / "classes.txt").write_text("3\n1\n2\n")
    prompts = load_prompts(str(tmp_path / "classes.txt"))
    settings = Settings("", CFG(2).to_dict(), num_inference_steps=2)
    run = Drawing(Plan(settings, "classes", 2, 1), prompts, 3, tmp_path / "out", lambda: pipe)
    pictures = [p for b in range(2) for p in run.pictures(b)]
    assert len({p.tobytes() for p in pictures}) == 3
    bad = load_prompts("geneval")
    run = Drawing(Plan(settings, "geneval", 2, 1), bad, 2, tmp_path / "bad", lambda: pipe)
    with pytest.raises(ValueError, match="the number or the name of a class"):
        run.pictures(0)


def test_from_python(tmp_path):
    (tmp_path / "two.txt").write_text("red heart\ncat\n")
    settings = Settings("", APG(4).to_dict(), model="tiny", num_inference_steps=2)
    plan = Plan(settings, str(tmp_path / "two.txt"), 4, 1)
    request = Request(plan, count=6, metrics=("saturation", "nfe"))
    load = functools.cache(tiny.sd)
    found = evaluate(request, tmp_path / "run", load)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["figures"]["nfe"]["value"] == found["nfe"].value == 4
    assert Request.from_dict(manifest["request"]) == request
    assert manifest["prompts"]["count"] == 2
    assert set(manifest["versions"]) > {"torch", "diffusers", "guiders", "python"}
    given = Request(pictures=str(tmp_path / "run" / "pictures"), metrics=("saturation",), count=0)
    again = evaluate(given, tmp_path / "given")
    assert again["saturation"].value == found["saturation"].value
    for request, words in (
        (Request(plan, metrics=("ssim",)), "ssim'; allowed with a baseline"),
        (Request(pictures="x", metrics=("nfe",)), "nfe'; allowed where pictures are drawn"),
        (Request(pictures="x", metrics=("clip",)), "allowed with the prompts"),
        (Request(plan, metrics=("fd:emoji-clip",)), "reference is missing"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(request, tmp_path / "not", load)
    with pytest.raises(ValueError, match="needs the features of each real picture"):
        wanted = parse_metrics("recall:emoji-judge", "emoji")
        Judges.load(wanted, "train", Processes("cpu"))
