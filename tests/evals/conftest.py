"""A tiny pipeline, and runs of it that take a moment."""

import functools

import pytest
import tiny
from guiders import APG
from guiders.evals.runs.images import Drawing
from guiders.evals.runs.plan import Plan
from guiders.evals.storage.prompts import Prompts
from guiders.pipelines.generation.settings import Settings

TEXTS = ("red heart", "blue car", "cat", "green apple")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The tiny pipeline as ``--model`` takes it."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny.sd("ddim").save_pretrained(path)
    return path


@pytest.fixture
def drawing(tmp_path):
    """Make a ``Drawing`` of the tiny pipeline, of batches of three."""
    load = functools.cache(tiny.sd)
    texts = Prompts("four", TEXTS, ("a", "b", "a", ""))

    def make(count=7, guider=None, out="run", keep=True, **changes):
        guider = guider or APG(4)
        settings = Settings("", guider.to_dict(), model="tiny", num_inference_steps=2)
        plan = Plan(settings, "four", **{"batch_size": 3, "threads": 1, **changes})
        return Drawing(plan, texts, count, tmp_path / out, load, keep)

    return make
