"""A tiny pipeline in a folder, as ``--model`` takes it."""

import pytest
import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny.sd("ddim").save_pretrained(path)
    (path / "words.txt").write_text("red\nheart\ncat\nstyle\nnoto\n")
    return path
