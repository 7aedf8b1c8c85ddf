"""The cost of guiding, on the smallest case."""

import json

import overhead
import pytest


def test_the_page_and_its_data(tmp_path):
    out = tmp_path / "overhead-test.md"
    words = ["--cases", "64", "--threads", "1", "--rounds", "1", "--steps", "3"]
    overhead.main([*words, "--out", str(out)])
    page, data = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert f"overhead.py {' '.join(words)}" in page
    assert data["command"] in page
    assert data["commit"] in page
    (case,) = data["cases"]
    counts, plain = case["counts"], case["counts"][overhead.PLAIN]
    assert plain["operations"] == 10
    assert plain["calls"] == 0
    assert counts["CFG"]["operations"] > plain["operations"]
    assert counts["CFG"]["calls"] > 0
    # u + s (c - u), each tensor of 4 x 64 x 64 in float32
    theirs = counts["Diffusers' CFG, alone"]
    assert (theirs["operations"], theirs["bytes"]) == (3, 8 * 4 * 4 * 64 * 64)
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {overhead.PLAIN}"))
    assert "1.00 (1.00 to 1.00)" in row
    assert all(len(times) == 1 for times in case["ms"].values())


@pytest.mark.parametrize("name", overhead.CASES)
def test_answers_are_given_back(name):
    case = overhead.CASES[name]()
    said = (case.pipe.unet if hasattr(case.pipe, "unet") else case.pipe.transformer).said
    before = said.clone()
    said.mul_(2)
    case.restore()
    assert said.equal(before)
