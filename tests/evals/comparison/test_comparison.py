"""A comparison from the command line to the page, seen in a browser."""

import csv
import json

import browser
import numpy as np
import pytest
from guiders import APG, CFG, Adaptive, Linear
from guiders.commands import main
from guiders.commands.compare import method_of, scales_of
from guiders.evals.comparison.compare import cells_of

METRICS = "fd:emoji-clip,clip:emoji-clip,class:emoji-classifier,saturation,ssim,nfe"


@pytest.fixture(scope="module")
def command(folder, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("prompts") / "four.tsv"
    rows = ["prompt\tlabel", "red heart\tsymbols", "cat\tnature", "car\ttravel", "apple\tfood"]
    prompts.write_text("\n".join(rows))

    def run(out, *more):
        return main(
            ["compare", "--model", str(folder), "--prompts", str(prompts), "--reference", "train",
             "--guider", "cfg", "--guider", "apg+adaptive(0.5)", "--scales", "1,3",
             "--num-images", "12", "--batch-size", "6", "--num-inference-steps", "3",
             "--threads", "1", "--bootstrap", "20", "--metrics", METRICS, "--out", str(out), *more]
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def out(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    assert command(folder) == 0
    return folder


def test_tables_have_every_cell_and_cfg_at_the_same_effective_scale(out):
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [(r["guider"], r["scale"]) for r in rows] == [
        ("cfg", 1), ("cfg", 3), ("apg+adaptive(0.5)", 1), ("apg+adaptive(0.5)", 3),
    ]  # fmt: skip
    by = {(r["guider"], r["scale"]): r for r in rows}
    unguided, cfg, apg = by["cfg", 1.0], by["cfg", 3.0], by["apg+adaptive(0.5)", 3.0]
    assert unguided["figures"] == by["apg+adaptive(0.5)", 1.0]["figures"]
    assert unguided["figures"]["nfe"]["value"] == 3
    assert cfg["figures"]["nfe"]["value"] == 6
    assert cfg["figures"]["effective-scale"]["value"] == 3
    assert apg["figures"]["nfe"]["value"] < 6  # Adaptive stopped
    effective = apg["figures"]["effective-scale"]["value"]
    assert 1 < effective < 3
    twin = apg["cfg_at_the_same_effective_scale"]
    assert twin["scale"] == round(effective, 2)
    assert twin["figures"]["effective-scale"]["value"] == pytest.approx(twin["scale"])
    assert 0 < apg["figures"]["ssim"]["value"] < 1
    assert "ssim" not in cfg["figures"]
    with open(out / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert float(table[3]["saturation"]) == apg["figures"]["saturation"]["value"]
    assert table[1]["ssim"] == ""
    text = (out / "table.md").read_text()
    assert "## Against CFG at the same effective scale" in text
    assert f"| apg+adaptive(0.5) | 3 | {effective:.2f} |" in text


def test_a_second_start_draws_nothing_and_a_new_scale_only_itself(command, out, capsys):
    pictures = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.png")}
    assert len(pictures) == 4 * 12  # unguided, CFG, APG, and CFG matched to it
    before = (out / "results.json").read_text()
    assert command(out) == 0
    assert (out / "results.json").read_text() == before
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.png")} == pictures
    capsys.readouterr()


def test_a_manifest_is_repeated(out, tmp_path, capsys):
    (run,) = [p for p in (out / "runs").iterdir() if p.name.startswith("apg")]
    manifest = json.loads((run / "manifest.json").read_text())
    assert (
        manifest["request"]["plan"]["settings"]["guider"]
        == APG(Adaptive(3, threshold=0.5)).to_dict()
    )
    assert manifest["seeds"] == [0, 11]
    assert manifest["networks"][0]["sha256"]
    assert manifest["references"]["emoji-clip"]["pictures"] == 8692
    assert manifest["model"]["precision"] == "float32"
    capsys.readouterr()
    assert main(["evaluate", "--from", str(run), "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(line.endswith("as before") for line in lines[:-1])
    again = json.loads((tmp_path / "manifest.json").read_text())
    assert again["figures"] == manifest["figures"]


@browser.needed
def test_the_page_in_a_browser(out, tmp_path):
    page = out / "report.html"
    text = page.read_text()
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    found = browser.inspect(page, tmp_path)
    assert found["errors"] == []
    assert found["broken"] == []
    assert found["fetched"] == []
    assert found["images"] == 4 * 10
    assert found["charts"] == 6 + 6 - 1 + 1  # over the scale, and over the effective scale
    assert found["wider"] <= 0
    light, dark = (browser.screenshot(page, tmp_path, dark) for dark in (False, True))
    assert light.shape == (900, 1200, 3)
    assert light[0, 0].min() > 240
    assert dark[0, 0].max() < 40
    for shot in (light, dark):
        paper = (np.abs(shot.astype(int) - shot[0, 0]).sum(axis=2) < 40).mean()
        assert 0.4 < paper < 0.97  # neither blank nor a mess
        assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 500


@browser.needed
def test_a_page_that_is_broken_is_noticed(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><html><head></head><body><img alt="lost" src="data:image/png;base64,AAAA">'
        '<img alt="far" src="http://example.invalid/a.png"><script>nothing()</script></body></html>'
    )
    found = browser.inspect(page, tmp_path)
    assert found["broken"] == ["lost", "far"]
    assert any("nothing is not defined" in error for error in found["errors"])
    assert found["fetched"] == ["http://example.invalid/a.png"]


def test_guiders_as_words(tmp_path):
    assert method_of("apg").at(4) == APG(4)
    assert method_of("cfg(5)").fixed == 5
    assert method_of("none").at(9) == CFG(1)
    APG(2, eta=0.5).save(tmp_path / "mine.json")
    mine = method_of(str(tmp_path / "mine.json"))
    assert (mine.label, mine.at(6)) == ("mine", APG(6, eta=0.5))
    assert scales_of("4,1,4") == [1, 4]
    cells = cells_of([method_of("cfg"), method_of("apg+adaptive")], [1, 2], tmp_path)
    assert [cell.guider for cell in cells[:3]] == [CFG(1), CFG(2), CFG(1)]
    assert cells[0].folder == cells[2].folder
    assert [bool(cell.baseline) for cell in cells] == [False, False, False, True]
    CFG(Linear(1, 9)).save(tmp_path / "linear.json")
    with pytest.raises(
        ValueError, match="guidance_scale: expected a guider whose scale is one number"
    ):
        method_of(str(tmp_path / "linear.json")).at(3)
