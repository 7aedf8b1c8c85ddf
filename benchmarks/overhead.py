"""What guiding costs beside a network that answers at once, as ratios to the pipeline's own step.

    python benchmarks/overhead.py --out benchmarks/results/overhead-cpu.md

The pipelines are real, but their network answers with a tensor that is there: what is left of a
step is the pipeline, its scheduler and the guider. Operations and bytes are counted
(``counting.py``), milliseconds are measured: the median step of a run, divided by the plain
pipeline's of the same round; rounds go through the variants in a new order each. Diffusers' own
guiders combine tensors of the same shape, without a pipeline. The emoji model, whose network takes
time, comes last.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from counting import Calls, Operations, Steps, a_step
from diffusers import (
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.utils import logging
from guiders import APG, CFG, Adaptive, Guider, Interval, Rescale, guided, models
from guiders.pipelines.machine import fixed_threads
from theirs import diffusers_guiders
from torch import Tensor
from tqdm import tqdm
from writing import origin, table, told, write

PLAIN = "the pipeline's own CFG"
VARIANTS: dict[str, Guider | None] = {
    PLAIN: None,
    "CFG": CFG(7.5),
    "APG": APG(7.5),
    "(APG + CFG) \\| Rescale": (APG(4) + CFG(4)) | Rescale(0.7),
    "CFG, Adaptive, never reached": CFG(Adaptive(7.5, threshold=1)),
}
REAL: dict[str, Guider | None] = {
    PLAIN: None,
    "CFG": CFG(7.5),
    "APG": APG(7.5),
    "CFG + APG": CFG(4) + APG(4),
    "CFG in an interval": CFG(Interval(7.5, low=0.5, high=5)),
    "CFG, Adaptive 0.99": CFG(Adaptive(7.5, threshold=0.99)),
    "unguided": CFG(1),
}
PROMPTS = ["red heart, noto style", "rocket", "food, fluent style", "cat face"]
COUNTED = 26  # steps of a run that is counted


def answers(*shape: int) -> tuple[Tensor, Tensor]:
    """What a network says of the negative and of the positive prompt."""
    generator = torch.Generator().manual_seed(0)
    negative, other = (torch.randn(shape, generator=generator) for _ in range(2))
    return negative, negative + 0.3 * other


class IdleUNet(UNet2DConditionModel):
    """Answers at once, of one batch or of both in one."""

    said: Tensor

    def forward(self, sample: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        return (self.said[-len(sample) :],)


class IdleTransformer(WanTransformer3DModel):
    """Answers at once, of the prompt whose embedding it is told."""

    said: Tensor

    def forward(
        self, hidden_states: Tensor, timestep: Any, encoder_hidden_states: Tensor, **kwargs: Any
    ) -> tuple[Tensor]:
        half = len(self.said) // 2
        positive = bool(encoder_hidden_states[0, 0, 0] > 0)
        return (self.said[half:] if positive else self.said[:half],)


@dataclass
class Case:
    """A pipeline and what it is called with.

    Attributes:
        shape: of its latents.
        restore: gives the network its answers back, which are the pipeline's to write to.
    """

    title: str
    shape: tuple[int, ...]
    pipe: Any
    inputs: dict[str, Any]
    restore: Callable[[], Any] = lambda: None


def idle(network: Any, *shape: int) -> Callable[[], Any]:
    """Give ``network`` its answers; returns what restores them."""
    network.said = torch.cat(answers(*shape))
    whole = network.said.clone()
    return lambda: network.said.copy_(whole)


def embeddings(batch: int, *shape: int) -> dict[str, Tensor]:
    told = {"prompt_embeds": torch.ones(batch, *shape)}
    return {**told, "negative_prompt_embeds": -told["prompt_embeds"]}


def picture(batch: int, side: int) -> Case:
    """Stable Diffusion, one pass for both prompts."""
    shape = (batch, 4, side, side)
    unet = IdleUNet(
        sample_size=side, block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=768, attention_head_dim=2,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    inputs = {"height": 8 * side, "width": 8 * side, "latents": torch.randn(shape)}
    title = f"Stable Diffusion, latents {' x '.join(map(str, shape))}"
    return Case(title, shape, pipe, {**inputs, **embeddings(batch, 77, 768)}, idle(unet, *shape))


def video() -> Case:
    """Wan, a pass for each prompt."""
    shape = (1, 16, 21, 60, 104)
    transformer = IdleTransformer(
        num_attention_heads=1, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=4096, freq_dim=8, ffn_dim=8, num_layers=1,
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = WanPipeline(
        transformer=transformer, scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None
    )
    inputs = {"height": 480, "width": 832, "num_frames": 81, "latents": torch.randn(shape)}
    title = f"Wan, two passes, latents {' x '.join(map(str, shape))}"
    told = embeddings(1, 512, 4096)
    return Case(title, shape, pipe, {**inputs, **told}, idle(transformer, *shape))


CASES: dict[str, Callable[[], Case]] = {
    "64": lambda: picture(1, 64),
    "128": lambda: picture(1, 128),
    "batch": lambda: picture(4, 128),
    "video": video,
}


def run(case: Case, guider: Guider | None, steps: int, callback: Any = None) -> Any:
    """A whole call of the pipeline; returns the attachment of the guider."""
    case.restore()
    attached = guided(case.pipe, guider, quiet=True) if guider else contextlib.nullcontext()
    with attached as attachment:
        case.pipe(
            num_inference_steps=steps, guidance_scale=7.5, output_type="latent",
            callback_on_step_end=callback, **case.inputs,
        )  # fmt: skip
    return attachment


def counted(case: Case, guider: Guider | None) -> dict[str, float]:
    """Operations and bytes of a step, and functions of this library that it calls."""
    operations, calls = Operations(torch.Size(case.shape).numel()), Calls()
    seen = Steps(lambda: operations.counts, case.restore)
    called = Steps(lambda: calls.files.copy(), case.restore)
    with operations:
        run(case, guider, COUNTED, seen)
    with calls:
        run(case, guider, COUNTED, called)
    steps = called.differences()
    return {
        **dataclasses.asdict(a_step(seen.differences())),
        "calls": statistics.median(step.total() for step in steps),
        "files": statistics.median(len(step) for step in steps),
    }


def theirs(case: Case) -> dict[str, Callable[[], Any]]:
    """Diffusers' guiders on tensors of the shape."""
    negative, positive = answers(*case.shape)
    return diffusers_guiders(positive, negative)


def counted_calls(call: Callable[[], Any], size: int) -> dict[str, float]:
    call()  # a momentum starts
    with Operations(size) as operations:
        call()
    return dataclasses.asdict(operations.counts)


def repeated(call: Callable[[], Any], times: int) -> float:
    """The median time of a call, in ms."""
    marks = [time.perf_counter()]
    for _ in range(times):
        call()
        marks.append(time.perf_counter())
    return 1e3 * statistics.median(b - a for a, b in itertools.pairwise(marks))


def stepped(case: Case, guider: Guider | None, steps: int) -> float:
    """The median time of a step, in ms."""
    marks = Steps(time.perf_counter, case.restore)
    run(case, guider, steps, marks)
    return 1e3 * statistics.median(marks.differences())


def measured(case: Case, rounds: int, steps: int) -> dict[str, list[float]]:
    """For each variant and Diffusers' guiders the ms of every round, interleaved."""
    jobs: dict[str, Callable[[], float]] = {
        name: lambda guider=guider: stepped(case, guider, steps)
        for name, guider in VARIANTS.items()
    }
    for name, call in theirs(case).items():
        jobs[name] = lambda call=call: repeated(call, steps)
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        names = list(jobs)
        random.Random(number).shuffle(names)
        for name in names:
            taken = jobs[name]()
            if number:  # the first round warms up
                found[name].append(taken)
    return found


def ratios(values: Sequence[float], base: Sequence[float]) -> str:
    """Round by round: the median, and the range."""
    if not values:
        return "-"
    found = [value / other for value, other in zip(values, base, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def section(title: str, times: dict[str, list[float]], counts: dict[str, dict]) -> list[str]:
    """A table of one case."""
    plain, base = counts[PLAIN], times[PLAIN]
    rows = []
    for name, count in counts.items():
        ours = "calls" in count
        rows.append([
            name, ratios(times[name], base), f"{count['operations']:.1f}",
            f"{count['operations'] - plain['operations']:+.1f}" if ours else "",
            f"{count['bytes'] / 1e6:.1f}", f"{count['bytes'] / plain['bytes']:.2f}",
            f"{count['doubles']:.1f}",
            f"{count['calls']:g} in {count['files']:g}" if ours else "",
        ])  # fmt: skip
    columns = [
        "a step, or a combination of Diffusers'", "time / plain step", "operations",
        "beyond plain", "MB", "bytes / plain step", "in float64", "our functions, files",
    ]  # fmt: skip
    return [f"## {title}", "", *table(columns, rows), ""]


def real(rounds: int, steps: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The emoji model: ms of whole calls of each round, and evaluations per image."""
    pipe = models.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    case = Case("", (), pipe, {"prompt": PROMPTS})
    times: dict[str, list[float]] = {name: [] for name in REAL}
    nfe: dict[str, float] = {}
    for number in range(rounds + 1):
        names = list(REAL)
        random.Random(number).shuffle(names)
        for name in names:
            start = time.perf_counter()
            attachment = run(case, REAL[name], steps)
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
            nfe[name] = attachment.nfe if attachment else 2.0 * steps
    return times, nfe


def real_section(threads: int, times: dict[str, list[float]], nfe: dict[str, float]) -> list[str]:
    rows = [[name, f"{nfe[name]:.1f}", ratios(times[name], times[PLAIN])] for name in times]
    columns = ["variant", "evaluations per image", "time / the pipeline's own CFG"]
    title = f"## The emoji model, a batch of {len(PROMPTS)}, threads: {threads}"
    return [title, "", *table(columns, rows), ""]


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=[*CASES, "emoji"], help="(default: all)")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9, help="0 counts, and measures no time")
    parser.add_argument("--steps", type=int, default=40, help="of a run that is timed")
    parser.add_argument("--out", type=Path, help="a page; its data go beside it")
    args = parser.parse_args(arguments)
    logging.set_verbosity_error()  # Diffusers warns of its guiders at each one
    source = origin(shlex.join(["python", "benchmarks/overhead.py", *arguments]))
    lines, data = [f"# Cost of guiding, {source['machine']}", "", told(source), ""], []
    lines += [
        "The network answers at once. *Operations* are those on tensors of more than 10,000 "
        "elements, views not counted; *MB* is what they read and write; times are medians over "
        f"{args.rounds} rounds of the median of {args.steps} steps, with the range.",
        "",
    ]
    for name in tqdm([name for name in args.cases if name in CASES], desc="cases"):
        case = CASES[name]()
        case.pipe.set_progress_bar_config(disable=True)
        counts = {variant: counted(case, guider) for variant, guider in VARIANTS.items()}
        size = torch.Size(case.shape).numel()
        counts |= {other: counted_calls(call, size) for other, call in theirs(case).items()}
        for threads in args.threads:
            with fixed_threads(threads):
                times = measured(case, args.rounds, args.steps)
            lines += section(f"{case.title}; threads: {threads}", times, counts)
            data.append({"case": case.title, "threads": threads, "ms": times, "counts": counts})
        if args.out:  # a run that is killed leaves what it has
            write(args.out, lines, {**source, "cases": data})
    if "emoji" in args.cases:
        for threads in args.threads:
            with fixed_threads(threads):
                times, nfe = real(args.rounds, args.steps // 2)
            lines += real_section(threads, times, nfe)
            data.append({"case": "emoji", "threads": threads, "ms": times, "nfe": nfe})
    print("\n".join(lines))
    if args.out:
        write(args.out, lines, {**source, "cases": data})


if __name__ == "__main__":
    main()
