"""``make gpu`` on the CPU: the script, with tiny networks."""

import ast
import json
from pathlib import Path

import gpu
import pytest
import torch

BENCHMARKS = Path(gpu.__file__).parent


def page(out, *words):
    assert gpu.main(["--tiny", "--out", str(out), *words]) == 0
    return out.read_text(), json.loads(out.with_suffix(".json").read_text())


def test_every_section(tmp_path):
    text, data = page(tmp_path / "gpu.md", "--seconds", "3600")
    assert data["left out"] == ["offload, all but none: there is no GPU"]
    assert len(data["sections"]) == len(gpu.SECTIONS)
    assert all(section["rows"] for section in data["sections"])
    rows = {section["section"]: section["rows"] for section in data["sections"]}
    assert {row["float32, to the CPU"] for row in rows["Every guider"]} == {"0.0e+00"}
    assert {row["error to none"] for row in rows["Offloading"]} == {"0.0e+00"}
    again = [row["new graphs"] for row in rows["Compiled"] if row["variant"] == "CFG"]
    assert again == ["0", "0"]  # as many as without a guider
    assert data["command"] in text


def test_a_section_that_fails_stops_no_other(tmp_path, monkeypatch):
    def fails(page, machine, tiny):
        page.section("Half", ["a"])
        page.row(1)
        raise RuntimeError("CUDA error: out of luck\nand more")

    def works(page, machine, tiny):
        page.section("Whole", ["a", "b"])
        page.row(2, page.attempt("a part", lambda: 1 / 0))

    monkeypatch.setattr(gpu, "SECTIONS", {"fails": (0, fails), "works": (0, works)})
    text, data = page(tmp_path / "gpu.md", "--only", "fails", "works")
    assert "- fails: **RuntimeError** CUDA error: out of luck" in text
    assert "- a part: **ZeroDivisionError** division by zero" in text
    assert [section["rows"] for section in data["sections"]] == [
        [{"a": "1"}],
        [{"a": "2", "b": "None"}],
    ]


def test_it_stops_in_time_and_says_what_is_left_out(tmp_path, monkeypatch):
    def endless(page, machine, tiny):
        page.section("Endless", ["a"])
        while True:
            pass

    monkeypatch.setattr(gpu, "SECTIONS", {"endless": (0, endless), "next": (0, endless)})
    text, _ = page(tmp_path / "gpu.md", "--seconds", "0.2", "--only", "endless", "next")
    assert "- endless: **TimeoutError**" in text
    assert "- next: 0 s were left" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert "expected a CUDA device" in capsys.readouterr().out


def chains(tree):
    """The dotted names in a file that begin with ``torch``."""
    for node in ast.walk(tree):
        names = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if names and isinstance(node, ast.Name) and node.id == "torch":
            yield names[::-1]


@pytest.mark.parametrize("name", ["gpu.py", "machine.py", "shapes.py", "align_memory.py"])
def test_what_it_calls_of_torch_is_there(name):
    found = list(chains(ast.parse((BENCHMARKS / name).read_text())))
    assert found
    for names in found:
        item = torch
        for part in names:
            item = getattr(item, part)
