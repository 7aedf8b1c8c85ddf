"""Files that are whole or not there, whatever goes wrong while they are written."""

import errno
import hashlib
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from guiders.guidance import Profile
from guiders.guidance.engine.files import write, write_tensors, write_text
from guiders.guidance.references.linear_ag import Coefficients
from guiders.pipelines.generation import png
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file


@contextmanager
def small_disk(size):
    """No file may become larger, as where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_profile(path):
    Profile({}, [1.0] * 500, [0] * 500, [], [], 0.0).save(path)


def save_coefficients(path):
    Coefficients(torch.zeros(500, 3), (1.0,) * 500, ("true",) * 500, 2.0, "eps", {}).save(path)


@pytest.mark.parametrize(
    "save",
    [
        lambda path: write_text(path, "x" * 5000),
        lambda path: png.save(path, Image.effect_noise((64, 64), 99)),
        lambda path: png.save(path, Image.effect_noise((64, 64), 99), new=True),
        save_profile,
        save_coefficients,
    ],
    ids=["text", "picture", "new picture", "profile", "coefficients"],
)
def test_a_full_disk_leaves_nothing_and_the_sentence_names_file_and_reason(save, tmp_path):
    path = tmp_path / "one"
    with small_disk(300), pytest.raises(OSError) as caught:
        save(path)
    reason = os.strerror(errno.EFBIG)
    assert str(caught.value) == f"{path} cannot be written ({reason}); what is there is kept"
    assert not list(tmp_path.iterdir())
    write_text(path, "whole")
    if save.__name__ != "<lambda>":
        with small_disk(300), pytest.raises(OSError, match="cannot be written"):
            save(path)
        assert path.read_text() == "whole"


def test_what_cannot_be_cleaned_up_does_not_hide_what_went_wrong(tmp_path, monkeypatch):
    def refuse(self, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    def fill(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match=r"one cannot be written \(No space left on device\)"):
        write(tmp_path / "one", fill)


def test_a_new_file_replaces_none(tmp_path):
    path = tmp_path / "one"
    write(path, lambda file: file.write(b"first"), new=True)
    with pytest.raises(FileExistsError):
        write(path, lambda file: file.write(b"second"), new=True)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_equal_tensors_and_notes_are_equal_files(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(1, dtype=torch.float16)}
    notes = {name: name * 3 for name in ("format", "rank", "wörter", "alpha", "model")}
    found = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        turned = dict(reversed(notes.items())) if number % 2 else notes
        write_tensors(path, tensors, turned)
        found.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(found) == 1
    with safe_open(path, "pt") as file:
        assert file.metadata() == notes
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(path).items())
