"""The Frechet distance at Inception's size: time, memory and digits, against other programs' ways.

    OMP_NUM_THREADS=1 python benchmarks/frechet.py --out benchmarks/results/frechet-cpu.md

All ways are timed in one run, each ``--rounds`` times in turn, in float64 on the same features, in
CPU seconds of one thread, which other work on the machine disturbs least; a ratio is of the fastest
rounds. Memory is what a process takes at most beyond what it had before, each way in a process of
its own.

    pip install --no-deps --target build/torch-fidelity torch-fidelity
    python benchmarks/frechet.py --torch-fidelity build/torch-fidelity

runs torch-fidelity's distance and network beside ours. The torchvision that it imports is not
needed for either, and is left out.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import torch
from guiders.evals import Moments, Streamed, frechet_distance
from guiders.evals.features import inception
from guiders.evals.features.extractors import Network
from tqdm import tqdm

DIMENSIONS = 2048


def features(count: int, seed: int, dtype: type = np.float64) -> np.ndarray:
    """Correlated, with a spectrum that falls, as that of a network's features does."""
    generator = np.random.default_rng(seed)
    spread = np.geomspace(1, 1e-3, DIMENSIONS)
    mix = np.linalg.qr(generator.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    x = (generator.normal(size=(count, DIMENSIONS)) * spread) @ mix
    return (x + 0.05 * seed).astype(dtype)


def by_square_root(a: Moments, b: Moments) -> float:
    """pytorch-fid, clean-fid and EDM2."""
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real.trace()
    traces = a.covariance.trace() + b.covariance.trace()
    return float((a.mean - b.mean).square().sum() + traces - 2 * root)


def by_eigenvalues(a: Moments, b: Moments) -> float:
    """torch-fidelity."""
    roots = np.sqrt(np.linalg.eigvals(a.covariance.numpy() @ b.covariance.numpy()).astype(complex))
    traces = a.covariance.trace() + b.covariance.trace()
    return float((a.mean - b.mean).square().sum() + traces - 2 * roots.real.sum())


def by_torch_eigenvalues(a: Moments, b: Moments) -> float:
    """torchmetrics."""
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))


WAYS: dict[str, Callable[[Moments, Moments], float]] = {
    "guiders": frechet_distance,
    "scipy sqrtm (pytorch-fid, clean-fid, EDM2)": by_square_root,
    "numpy eigvals (torch-fidelity)": by_eigenvalues,
    "torch eigvals (torchmetrics)": by_torch_eigenvalues,
}


def exact(x: np.ndarray, y: np.ndarray) -> float:
    """By singular values of the centred features: no root of a matrix is taken."""
    a, b = ((torch.from_numpy(z) - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    cross = torch.linalg.svdvals(torch.linalg.qr(a, mode="r").R @ torch.linalg.qr(b, mode="r").R.T)
    if min(len(x), len(y)) < DIMENSIONS:
        cross = torch.linalg.svdvals(a @ b.T)
    traces = a.square().sum() + b.square().sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + traces - 2 * cross.sum())


def distances(rounds: int) -> list[str]:
    lines = [
        "| features | way | CPU seconds | times ours | relative error |",
        "|---|---|---|---|---|",
    ]
    for title, count in (("10,000 x 2048", 10_000), ("1,000 x 2048", 1_000)):
        x, y = features(count, 0), features(count, 1)
        truth = exact(x, y)
        a, b = Moments.of(x), Moments.of(y)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        values = {}
        few = count < DIMENSIONS  # general eigenvalues then take minutes: one round is enough
        for number in tqdm(range(rounds), desc=title):
            for name, way in WAYS.items():
                if number and few and "eigvals" in name:
                    continue
                started = time.process_time()
                values[name] = way(a, b)
                seconds[name].append(time.process_time() - started)
        ours = min(seconds["guiders"])
        for name, times in seconds.items():
            off = abs(values[name] - truth) / truth
            lines.append(
                f"| {title} | {name} | {min(times):.2f} | {min(times) / ours:.1f} | {off:.0e} |"
            )
    return lines


def statistics_memory(way: str, count: int = 50_000, batch: int = 500) -> None:
    """In a process of its own: print seconds and MB taken beyond what there was before."""
    part = features(batch, 0, np.float32)
    tensor = torch.from_numpy(part)
    tensor.double().T @ tensor.double()  # the library's own buffers are not counted
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts from here
    before = peak_memory()
    started = time.process_time()
    if way == "guiders":
        streamed = Streamed()
        for _ in range(count // batch):
            streamed.add(tensor)
        streamed.moments()
    elif way == "torchmetrics":
        from torchmetrics.image.fid import FrechetInceptionDistance

        class Given(torch.nn.Module):
            num_features = DIMENSIONS

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x

        metric = FrechetInceptionDistance(feature=Given(), normalize=True, input_img_size=None)
        for _ in range(count // batch):
            metric.update(tensor, real=True)
    else:
        whole = np.concatenate([part] * (count // batch))
        np.mean(whole, axis=0), np.cov(whole, rowvar=False)
    seconds = time.process_time() - started
    print(f"{seconds:.1f} {peak_memory() - before:.0f}")


def peak_memory() -> float:
    """The most that this process has held at once, in MB."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024


def memory() -> list[str]:
    lines = ["| way | CPU seconds | extra MB |", "|---|---|---|"]
    for way, title in (
        ("guiders", "guiders, streamed"),
        ("torchmetrics", "torchmetrics, streamed"),
        ("numpy", "numpy mean and cov of all (pytorch-fid, clean-fid, torch-fidelity)"),
    ):
        command = [sys.executable, __file__, "--statistics", way]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines.append(f"| {title} | failed: {done.stderr.strip().splitlines()[-1]} | |")
            continue
        seconds, taken = done.stdout.split()[-2:]
        lines.append(f"| {title} | {seconds} | {taken} |")
    return lines


def against_torch_fidelity(folder: Path) -> list[str]:
    """Its distance, and its Inception with the weights of ours, at random."""
    for name in ("", ".datasets", ".transforms", ".transforms.functional", ".models"):
        module = types.ModuleType(f"torchvision{name}")
        module.__path__ = []  # type: ignore[attr-defined]
        module.__getattr__ = lambda attribute: object  # type: ignore[method-assign]
        sys.modules[module.__name__] = module
        parent, _, child = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.path.insert(0, str(folder))
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(3000, 512)) @ generator.normal(size=(512, 512)) / 23 + i / 9
            for i in range(2))  # fmt: skip
    given = ({"mu": z.mean(0), "sigma": np.cov(z, rowvar=False)} for z in (x, y))
    theirs = fid_statistics_to_metric(*given, False)["frechet_inception_distance"]
    ours = frechet_distance(Moments.of(x), Moments.of(y))

    torch.manual_seed(0)
    network, weights = inception.Inception().eval(), folder / "random-inception.pth"
    for name, buffer in network.named_buffers():
        if "running_mean" in name:
            buffer.normal_(0, 0.1)
        elif "running_var" in name:
            buffer.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), weights)
    extractor = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
    )
    pictures = generator.integers(0, 256, (4, 40, 56, 3), dtype=np.uint8)
    one = extractor(torch.from_numpy(pictures).permute(0, 3, 1, 2))[0]
    same = (128 / 255,) * 3
    two = Network("inception", network, inception.SIZE, "tf1", same, same)(pictures)
    off = float((one - two).abs().max() / one.abs().max())
    return [
        f"The same 3000 x 512 features: torch-fidelity {theirs:.10f}, guiders {ours:.10f}.",
        "",
        "Inception with the same random weights, four pictures of 40 x 56 resized by each: largest "
        f"difference {off:.0e} of the largest feature.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--statistics", help=argparse.SUPPRESS)
    parser.add_argument("--torch-fidelity", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.statistics:
        return statistics_memory(args.statistics)
    if args.torch_fidelity:
        lines = ["# Beside torch-fidelity", "", *against_torch_fidelity(args.torch_fidelity)]
    else:
        lines = [
            f"# Frechet distance and statistics, {platform.machine()} CPU, one thread",
            "",
            f"`OMP_NUM_THREADS=1 python benchmarks/frechet.py --rounds {args.rounds}`; torch "
            f"{torch.__version__}, scipy {scipy.__version__}, numpy {np.__version__}. Errors are "
            "relative to the distance by singular values of the features.",
            "",
            *distances(args.rounds),
            "",
            "Statistics of 50,000 x 2048 float32 features in batches of 500; extra memory beyond "
            "one batch and the libraries:",
            "",
            *memory(),
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    return None


if __name__ == "__main__":
    main()
