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
from guiders.commands import main


def arguments(folder, out):
    return [
        "evaluate", "--model", str(folder), "--prompts", "geneval", "--num-images", "22",
        "--batch-size", "3", "--num-inference-steps", "8", "--threads", "1",
        "--metrics", "fd:emoji-clip,saturation,nfe", "--reference", "train",
        "--device", "cpu", "--out", str(out),
    ]  # fmt: skip


def launch(processes, folder, out):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), "-m", "guiders", *arguments(folder, out)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def hashes(out):
    files = sorted((out / "pictures").glob("[0-9]*.png"))
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone")
    assert main(arguments(folder, out)) == 0
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
    assert len(list((tmp_path / "pictures").iterdir())) == 22  # and nothing half-written
    ours, theirs = (json.loads((p / "manifest.json").read_text()) for p in (tmp_path, alone))
    assert ours["processes"] == 3
    for key, figure in theirs["figures"].items():
        assert ours["figures"][key]["value"] == pytest.approx(figure["value"], rel=1e-9), key
