"""Kill ``guiders evaluate`` and ``guiders compare`` at random moments, and go on: are files equal?

    python benchmarks/kills.py                                             # 20 kills of each
    python benchmarks/kills.py --kills 1 --num-images 6 --commands evaluate

First one process draws and measures undisturbed, then two and three. Then, again and again in a new
folder, one to three processes are killed (SIGKILL, the whole group) at a random file, and another
number of them goes on to the end. Pictures, rows, draws of the intervals and tables must be equal
by hash to those of the first run, and nothing half-written may be left.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PROCESSES = (1, 2, 3)
KEPT = ("**/*.png", "**/*.npz", "table.*")
PATIENCE = 3600.0  # seconds for a run


def command(name: str, out: Path, args: argparse.Namespace) -> list[str]:
    """The arguments of ``guiders``; neither seconds nor memory are measured, which differ."""
    words = [
        name, "--model", args.model, "--prompts", args.prompts, "--device", "cpu",
        "--num-images", str(args.num_images), "--batch-size", "3", "--num-inference-steps", "4",
        "--reference", "train", "--out", str(out),
        "--metrics", "fd:emoji-clip,class:emoji-classifier,saturation,nfe",
    ]  # fmt: skip
    return [*words, "--scales", "1,4"] if name == "compare" else words


def start(processes: int, words: list[str]) -> subprocess.Popen[str]:
    """Begin a run, with as many threads as each way of starting has by default."""
    launcher = ["-m", "guiders"]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone",
                    "--nproc_per_node", str(processes), *launcher]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, *launcher, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env=environment,
    )  # fmt: skip


def finish(processes: int, words: list[str]) -> None:
    """A run to its end.

    Raises:
        RuntimeError: it failed.
    """
    running = start(processes, words)
    said = running.communicate(timeout=PATIENCE)[1]
    if running.returncode:
        raise RuntimeError(f"{' '.join(words)} with {processes} processes: {said[-2000:]}")


def kill(processes: int, words: list[str], out: Path, until: int) -> int:
    """Begin a run and kill it once so many files are there; returns how many there were."""
    running, deadline = start(processes, words), time.monotonic() + PATIENCE
    while running.poll() is None and time.monotonic() < deadline and len(files(out)) < until:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    return len(files(out))


def files(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file()]


def hashes(out: Path) -> dict[str, str]:
    found = {path for pattern in KEPT for path in out.glob(pattern)}
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def difference(out: Path, whole: dict[str, str]) -> str:
    """What is not as it should be; "" is nothing."""
    here = hashes(out)
    wrong = sorted(name for name in here | whole if here.get(name) != whole.get(name))
    wrong += [str(path.relative_to(out)) for path in out.rglob("*.part")]
    return f"{len(wrong)} differ, such as {wrong[0]}" if wrong else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--commands", default="evaluate,compare")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--prompts", default="emoji", help="with the labels of emoji-classifier")
    parser.add_argument("--num-images", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("build/kills"))
    args = parser.parse_args()
    random.seed(args.seed)
    shutil.rmtree(args.out, ignore_errors=True)
    failed = 0

    def report(name: str, what: str, wrong: str) -> None:
        nonlocal failed
        failed += bool(wrong)
        print(f"{name:9} {what:58} {wrong or 'equal'}", flush=True)

    for name in args.commands.split(","):
        first = args.out / name / "1"
        finish(1, command(name, first, args))
        whole, total = hashes(first), len(files(first))
        print(f"{name:9} {len(whole)} files are compared", flush=True)
        for count in PROCESSES[1:]:
            out = args.out / name / str(count)
            finish(count, command(name, out, args))
            report(name, f"{count} processes", difference(out, whole))
        for number in range(args.kills):
            out = args.out / name / f"killed-{number}"
            one, other = random.choice(PROCESSES), random.choice(PROCESSES)
            there = kill(one, command(name, out, args), out, random.randint(1, total - 1))
            finish(other, command(name, out, args))
            what = f"{one} killed at {there} of {total} files, {other} went on"
            report(name, what, difference(out, whole))
            shutil.rmtree(out)
    print(f"{failed} runs differ" if failed else "all files are equal")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
