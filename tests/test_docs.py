"""The pages that are written from the code are those of this code, and say what it does."""

import importlib.util
from pathlib import Path

import pytest
import torch
from guiders.guidance import CFG, Denoiser, Post, Query, Readout, RewardGuidance, Term
from guiders.pipelines.language.names import term_names, transform_names
from known import Answers, step

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_methods_is_that_of_this_version():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert script("methods").page() == page, "run `make methods`"


def test_the_stubs_are_those_of_the_faces():
    for path, text in script("stubs").stubs().items():
        assert path.read_text() == text, "run `make methods`"


def test_every_method_has_a_formula():
    lines = (ROOT / "docs" / "methods.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) >= 25
    assert [line for line in rows if "| `` |" in line] == []


def score(pictures, prompts):
    return pictures.square().flatten(1).sum(dim=1) / 9


def example(kind):
    if issubclass(kind, Post):
        return CFG(4) | kind()
    return kind(4.0, score, "latents", "x0") if kind is RewardGuidance else kind(4.0)


def tensor(seed):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


KINDS = [
    kind
    for kind in (term_names() | transform_names()).values()
    if issubclass(kind, (Term, Post)) and kind.works_on not in ("x", "")
    if kind.__module__.startswith("guiders.guidance")
]
READOUTS = [Readout(0.0, 1.0), Readout(0.7, -1.6)]


def guide(kind, c, u, readout):
    x = tensor(2)
    result = Denoiser(example(kind), 2)(Query(x, step(1, 3)), Answers(c, u, readout))
    return result.output, result.x0


@pytest.mark.parametrize("kind", [k for k in KINDS if k.works_on in ("x0", "any")])
def test_what_works_on_x0_gives_the_same_x0_from_every_output(kind):
    x, found = tensor(2), []
    for readout in READOUTS:
        outputs = [(tensor(seed) - readout.skip * x) / readout.gain for seed in (0, 1)]
        found.append(guide(kind, *outputs, readout)[1])
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.works_on in ("output", "any")])
def test_what_works_on_the_output_does_not_care_how_it_is_read(kind):
    found = [guide(kind, tensor(0), tensor(1), readout)[0] for readout in READOUTS]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.works_on in ("output", "x0")])
def test_any_is_said_where_it_is_true(kind):
    """A method that works on one of the two is not the same in the other."""
    x, found = tensor(2), []
    for readout in READOUTS:
        if kind.works_on == "x0":
            found.append(guide(kind, tensor(0), tensor(1), readout)[0])
        else:
            outputs = [(tensor(seed) - readout.skip * x) / readout.gain for seed in (0, 1)]
            found.append(guide(kind, *outputs, readout)[1])
    assert (found[0] - found[1]).norm() > 1e-4 * found[0].norm()
