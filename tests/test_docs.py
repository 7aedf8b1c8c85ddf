"""The pages that are written from the code are those of this code, and say what it does."""

from pathlib import Path

import methods
import pytest
import stubs
import torch
from guiders.guidance import POSITIVE, Denoiser, Post, Prediction, Query, Readout, Term
from guiders.pipelines.language.names import term_names, transform_names
from known import step

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent


def test_the_table_of_methods_is_that_of_this_version():
    page = (ROOT / "docs" / "methods.md").read_text()
    assert methods.page() == page, "run `make methods`"


def test_the_stubs_are_those_of_the_faces():
    for path, text in stubs.stubs().items():
        assert path.read_text() == text, "run `make methods`"


def test_every_method_has_a_formula():
    lines = (ROOT / "docs" / "methods.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) >= 25
    assert [line for line in rows if "| `` |" in line] == []


def tensor(seed):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


KINDS = [
    kind
    for kind in (term_names() | transform_names()).values()
    if issubclass(kind, (Term, Post)) and kind.works_on not in ("x", "")
    if kind.__module__.startswith("guiders.guidance")
]
READOUTS = [Readout(0.0, 1.0), Readout(0.7, -1.6)]


def guide(kind, readout, same):
    """The guided prediction where the network's ``same``, "output" or "x0", is always the same."""

    def network(query, requests):
        answers = {}
        for branch, rows in requests.items():
            x = query.x[list(rows)]
            said = tensor(int(branch != POSITIVE))[list(rows)] + 0.1 * x
            if same == "x0":
                said = (said - readout.skip * x) / readout.gain
            answers[branch] = Prediction(x, said, readout)
        return answers

    return Denoiser(methods.guider_of(kind, 4.0), 2)(Query(tensor(2), step(1, 3)), network)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.works_on in ("x0", "any")])
def test_what_works_on_x0_gives_the_same_x0_from_every_output(kind):
    found = [guide(kind, readout, "x0").x0 for readout in READOUTS]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.works_on in ("output", "any")])
def test_what_works_on_the_output_does_not_care_how_it_is_read(kind):
    found = [guide(kind, readout, "output").output for readout in READOUTS]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.works_on in ("output", "x0")])
def test_any_is_said_where_it_is_true(kind):
    """A method that works on one of the two is not the same in the other."""
    if kind.works_on == "x0":
        found = [guide(kind, readout, "output").output for readout in READOUTS]
    else:
        found = [guide(kind, readout, "x0").x0 for readout in READOUTS]
    assert (found[0] - found[1]).norm() > 1e-4 * found[0].norm()
