"""Real processes under torchrun: killed without warning, and gone on with by more of them."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from guiders.commands import main


def arguments(folder, out):
    return [
        "evaluate", "--model", str(folder), "--prompts", "emoji", "--num-images", "22",
        "--batch-size", "3", "--num-inference-steps", "8", "--reference", "train",
        "--metrics", "fd:emoji-clip,class:emoji-classifier,saturation,nfe",
        "--device", "cpu", "--out", str(out),
    ]  # fmt: skip


def launch(processes, folder, out):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), "-m", "guiders", *arguments(folder, out)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def hashes(out, *patterns):
    """Of the pictures, unless others are named."""
    files = [path for pattern in patterns or ("pictures/[0-9]*.png",) for path in out.glob(pattern)]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """The run of one process, where more threads would be the default."""
    out, before = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(2)
    assert main(arguments(folder, out)) == 0
    torch.set_num_threads(before)
    return out


def test_two_processes_killed_and_three_that_go_on_make_the_same_files(folder, alone, tmp_path):
    first = launch(2, folder, tmp_path)
    until = random.Random().randint(1, 12)  # any moment between the first picture and the last
    deadline = time.monotonic() + 600
    while first.poll() is None and time.monotonic() < deadline:
        if (tmp_path / "pictures").is_dir() and len(hashes(tmp_path)) >= until:
            break
        time.sleep(0.002)
    os.killpg(first.pid, signal.SIGKILL)
    output = first.communicate()[0]
    assert (tmp_path / "pictures").is_dir(), output
    killed = hashes(tmp_path)
    assert killed.items() <= hashes(alone).items()
    second = launch(3, folder, tmp_path)
    output = second.communicate(timeout=600)[0]
    assert second.returncode == 0, output
    assert hashes(tmp_path) == hashes(alone), f"killed at {len(killed)} pictures"
    rows = hashes(alone, "rows/*/*.npz", "draws.npz")
    assert len(rows) == 3 * 8 + 1
    assert hashes(tmp_path, "rows/*/*.npz", "draws.npz") == rows
    assert len(list((tmp_path / "pictures").iterdir())) == 22  # and nothing half-written
    ours, theirs = (json.loads((p / "manifest.json").read_text()) for p in (tmp_path, alone))
    assert ours["processes"] == 3
    for key, figure in theirs["figures"].items():
        assert ours["figures"][key]["value"] == pytest.approx(figure["value"], rel=1e-9), key
