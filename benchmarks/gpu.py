"""What has to be seen on a GPU, in order of value, in the seconds there are.

    make gpu SECONDS=200
    python benchmarks/gpu.py --tiny --out /tmp/tiny.md      # the script itself, on the CPU

Sections start while their time is left, say what they leave out, and never stop one another: what
one raises is a line of the page. The page is written after every line, so that a kill loses none.
Networks of real size have random weights and take bfloat16; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import io
import itertools
import re
import shlex
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import shapes
import torch
from counting import Steps
from diffusers.utils import logging
from every_guider import every_guider
from guiders import (
    APG,
    CFG,
    MPGD,
    Adaptive,
    Confusion,
    Guider,
    Interval,
    PerturbedAttention,
    UniversalGuidance,
    WeakModel,
    commands,
    guided,
    models,
)
from machine import Machine
from page import Page
from theirs import diffusers_guiders
from torch import Tensor
from writing import origin

RESULTS = Path(__file__).parent / "results"
PROMPTS = ("red heart, noto style", "cat face, noto style")


def shown(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def error(there: Tensor, here: Tensor) -> float:
    """The distance as a share of the norm, in float64."""
    a, b = there.detach().double().cpu(), here.detach().double().cpu()
    return float((a - b).norm() / b.norm())


# ---------------------------------------------------------------------------- the emoji model


@functools.cache
def shipped() -> Any:
    pipe = models.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def emoji(device: str, dtype: torch.dtype = torch.float32) -> Any:
    return copy.deepcopy(shipped()).to(device, dtype)


def attached(pipe: Any, guider: Any, **options: Any) -> contextlib.AbstractContextManager[Any]:
    if guider is None:
        return contextlib.nullcontext()
    return guided(pipe, guider, quiet=True, **options)


def draw(pipe: Any, guider: Any, steps: int = 6, **options: Any) -> Tensor:
    """Latents (2, ...) of two prompts and fixed noise, which is the same in all types."""
    config = pipe.unet.config
    shape = (2, config.in_channels, config.sample_size, config.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with attached(pipe, guider, **options):
        return pipe(
            list(PROMPTS), num_inference_steps=steps, output_type="latent", guidance_scale=4.0,
            latents=noise.to(pipe.unet.dtype),
        ).images  # fmt: skip


def emoji_guiders(tiny: bool, steps: int) -> dict[str, Any]:
    with guided(pipe := emoji("cpu"), CFG(4), quiet=True) as run:
        draw(pipe, None, steps)
    found = every_guider(PROMPTS, "emoji-weak", [record.sigma for record in run.records])
    names = ["CFG", "(APG + CFG) | Rescale"] if tiny else list(found)
    return {name: found[name] for name in names}


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No TF32, with which float32 has 10 bits in products."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for one in places:
        one.allow_tf32 = False
    try:
        yield
    finally:
        for one, value in zip(places, before, strict=True):
            one.allow_tf32 = value


def every(page: Page, machine: Machine, tiny: bool) -> None:
    """Every guider on the device against the CPU, and in bfloat16 against float64."""
    steps = 2 if tiny else 6
    guiders = {"no guider": None, **emoji_guiders(tiny, steps)}
    with full_precision():
        here, there = emoji("cpu"), emoji(machine.device)
        half, double = (emoji(machine.device, dtype) for dtype in (torch.bfloat16, torch.float64))
        plain = error(draw(half, None, steps), draw(double, None, steps))
        page.section(
            "Every guider", ["guider", "float32, to the CPU", "bf16, to float64", "/ no guider's"],
            f"Relative errors of the latents after {steps} steps of the emoji model, without TF32.",
        )  # fmt: skip
        for name, guider in guiders.items():
            if page.left < 0.6 * page.seconds:
                page.skip(f"guider {name}", "the time of this section was gone")
                continue
            exact = page.attempt(
                f"guider {name}",
                lambda g=guider: error(draw(there, g, steps), draw(here, g, steps)),
            )
            rough = page.attempt(
                f"guider {name} in bf16",
                lambda g=guider: error(draw(half, g, steps), draw(double, g, steps)),
            )
            ratio = None if rough is None else rough / plain
            page.row(name.replace("|", "\\|"), *(
                "failed" if e is None else f"{e:.1e}" for e in (exact, rough)
            ), shown(ratio, 2))  # fmt: skip


def waits(page: Page, machine: Machine, tiny: bool) -> None:
    """How often the host waits for the device in a step, and where."""
    pipe = emoji(machine.device, torch.bfloat16)
    pipe.scheduler = shapes.euler()
    cases: dict[str, tuple[Any, dict[str, bool]]] = {
        "no guider": (None, {}),
        "CFG": (CFG(4), {}),
        "APG": (APG(4), {}),
        "PAG": (CFG(4, reference=PerturbedAttention()), {}),
        "autoguidance": (CFG(2, reference=WeakModel("emoji-weak")), {}),
        "diagnosis": (CFG(4), {"diagnose": True}),
        "Adaptive": (CFG(Adaptive(4, threshold=1)), {}),
    }
    few_steps, many_steps = (1, 2) if tiny else (4, 10)
    if tiny:
        cases = {name: cases[name] for name in ("no guider", "diagnosis")}
    page.section(
        "Waits of the host in a step", ["guider", "waits", "where"],
        "By `torch.cuda.set_sync_debug_mode`, as the slope between "
        f"{few_steps} and {many_steps} steps of the emoji model with Euler.",
    )  # fmt: skip
    for name, (guider, options) in cases.items():
        if not page.has(3, f"waits of {name}"):
            continue

        def counts(guider: Any = guider, options: Any = options) -> list[Counter[str] | None]:
            return [
                machine.waits(lambda n=n: draw(pipe, guider, n, **options))
                for n in (few_steps, many_steps)
            ]

        found = page.attempt(f"waits of {name}", counts)
        if found is None:
            continue
        few, many = found
        if few is None or many is None:
            page.row(name, "-", "-")
            continue
        many.subtract(few)
        slope = {where: count / (many_steps - few_steps) for where, count in many.items() if count}
        where = ", ".join(f"{place} {count:.1f}" for place, count in slope.items())
        page.row(name, f"{sum(slope.values()):.1f}", where or "nowhere")


def offload(page: Page, machine: Machine, tiny: bool) -> None:
    """Offloaded pipelines draw what those on the device draw."""
    device = machine.device
    modes: dict[str, Callable[[Any], Any]] = {
        "none": lambda pipe: pipe.to(device),
        "model": lambda pipe: pipe.enable_model_cpu_offload(device=device),
        "sequential": lambda pipe: pipe.enable_sequential_cpu_offload(device=device),
        "group": lambda pipe: pipe.enable_group_offload(
            onload_device=torch.device(device), offload_device=torch.device("cpu"),
            offload_type="leaf_level",
        ),
    }  # fmt: skip
    if not machine.gpu:
        page.skip("offload, all but none", "there is no GPU")
        modes = {"none": modes["none"]}
    guiders = {
        "no guider": None,
        "CFG": CFG(4),
        "PAG": CFG(3, reference=PerturbedAttention()),
        "autoguidance": CFG(2, reference=WeakModel("emoji-weak")),
        "GFCG on pictures": CFG(
            4, reference=Confusion([*PROMPTS, "dog face"], "emoji-clip", threshold=1.0)
        ),
        "reward through x0": CFG(3) + MPGD(0.05, "emoji-clip"),
        "reward through the network": CFG(3) + UniversalGuidance(0.05, "emoji-clip"),
    }
    if tiny:
        guiders = {name: guiders[name] for name in ("no guider", "CFG")}
    page.section(
        "Offloading", ["guider", "mode", "error to none", "s"],
        "The emoji model in 4 steps; seconds of a call that places the model.",
    )  # fmt: skip
    for name, guider in guiders.items():
        whole: Tensor | None = None
        for mode, put in modes.items():
            if not page.has(3, f"offload {mode}, {name}"):
                continue

            def call(guider: Any = guider, put: Any = put) -> tuple[Tensor, float]:
                put(pipe := emoji("cpu"))
                start = time.perf_counter()
                drawn = draw(pipe, guider, 4).cpu()
                return drawn, time.perf_counter() - start

            found = page.attempt(f"offload {mode}, {name}", call)
            if found is None:
                continue
            whole = found[0] if mode == "none" else whole
            off = "-" if whole is None else f"{error(found[0], whole):.1e}"
            page.row(name, mode, off, f"{found[1]:.2f}")


# ---------------------------------------------------------------------------- networks of real size

VARIANTS: dict[str, Guider | None] = {
    "no guider": None,
    "CFG": CFG(5),
    "APG": APG(5),
    "Adaptive, never reached": CFG(Adaptive(5, threshold=1)),
}
STEPS = {"sd15": 20, "sdxl": 10, "sd3": 8, "flux": 4, "wan": 3}


def call(pipe: Any, inputs: dict[str, Any], guider: Any, steps: int, callback: Any = None) -> None:
    with attached(pipe, guider):
        pipe(num_inference_steps=steps, callback_on_step_end=callback, **inputs)


def step_ms(machine: Machine, pipe: Any, inputs: dict[str, Any], guider: Any, steps: int) -> float:
    """The median time of a step, but for the first."""
    marks = Steps(machine.mark)
    call(pipe, inputs, guider, steps + 1, marks)
    machine.wait()
    return statistics.median(itertools.starmap(machine.between, marks.spans))


def launches(machine: Machine, pipe: Any, inputs: dict[str, Any], guider: Any) -> float | None:
    """In a step: the slope between 2 steps and 4."""
    few, many = (machine.launches(lambda n=n: call(pipe, inputs, guider, n)) for n in (2, 4))
    return None if few is None or many is None else (many - few) / 2


def speed(name: str) -> Callable[[Page, Machine, bool], None]:
    """A section on a model's shapes."""

    def section(page: Page, machine: Machine, tiny: bool) -> None:
        pipe, inputs = shapes.build(name, machine.device, tiny=tiny)
        steps = 2 if tiny else STEPS[name]
        variants = {k: VARIANTS[k] for k in ("no guider", "APG")} if tiny else VARIANTS
        page.section(
            f"A step of {name}" + " (tiny)" * tiny,
            ["variant", "ms", "/ no guider", "beyond, ms", "launches", "peak, MiB"],
            f"Latents {tuple(inputs['latents'].shape)}, the network in bfloat16; the median of "
            f"{steps} steps. The peak is beyond the weights.",
        )
        call(pipe, inputs, None, 2)  # warms up
        plain: float | None = None
        for variant, guider in variants.items():
            if not page.has((steps + 9) * (plain or 0) / 1e3, f"{name}, {variant}"):
                continue

            def measure(guider: Any = guider) -> tuple[float, float | None, float | None]:
                peak = machine.peak(lambda: call(pipe, inputs, guider, 2))
                taken = step_ms(machine, pipe, inputs, guider, steps)
                return taken, peak, launches(machine, pipe, inputs, guider)

            found = page.attempt(f"{name}, {variant}", measure)
            if found is None:
                continue
            taken, peak, launched = found
            plain = taken if guider is None else plain
            ratio, beyond = (None, None) if plain is None else (taken / plain, taken - plain)
            page.row(
                variant, f"{taken:.2f}", shown(ratio, 3), shown(beyond, 2), shown(launched),
                shown(peak, 0),
            )  # fmt: skip
        positive, negative = (torch.randn_like(inputs["latents"]) for _ in range(2))
        for variant, combine in diffusers_guiders(positive, negative).items():
            found = page.attempt(f"{name}, {variant}", lambda c=combine: alone(machine, c))
            if found is not None:
                page.row(variant, f"{found[0]:.3f}", "", f"{found[0]:.3f}", shown(found[1]), "")

    return section


def alone(machine: Machine, combine: Callable[[], Any]) -> tuple[float, float | None]:
    """Median ms of a call, and its launches."""
    marks = []
    for _ in range(30):
        marks.append(machine.mark())
        combine()
    marks.append(machine.mark())
    machine.wait()
    taken = itertools.starmap(machine.between, itertools.pairwise(marks[5:]))
    return statistics.median(taken), machine.launches(combine)


def compiled(page: Page, machine: Machine, tiny: bool) -> None:
    """SD 1.5 under ``torch.compile``: how often it is compiled, and what a step takes."""
    from torch._dynamo.utils import counters

    how = {} if machine.gpu else {"backend": "eager"}
    cases = {
        "no guider": None,
        "CFG": CFG(5),
        "CFG, attached again": CFG(5),
        "APG": APG(5),
        "CFG in an interval": CFG(Interval(5, low=2)),
    }
    if tiny:
        cases = {name: cases[name] for name in ("no guider", "CFG")}

    def graphs() -> int:
        return counters["stats"]["unique_graphs"]

    page.section(
        "Compiled", ["SD 1.5", "variant", "new graphs", "ms", "first call, s"],
        "*In place* is `pipe.unet.compile()` with the backend that changes nothing, to count "
        "graphs; *blocks* is `compile_repeated_blocks()`, with Inductor on a GPU.",
    )  # fmt: skip
    for kind in ("in place", "blocks"):
        torch._dynamo.reset()
        pipe, inputs = shapes.build("sd15", machine.device, tiny=tiny)
        if kind == "in place":
            pipe.unet.compile(backend="eager")
        else:
            pipe.unet.compile_repeated_blocks(**how)
        for variant, guider in cases.items():
            if not page.has(10 if machine.gpu else 1, f"compiled {kind}, {variant}"):
                continue

            def measure(guider: Any = guider, pipe: Any = pipe, inputs: Any = inputs) -> Any:
                before, start = graphs(), time.perf_counter()
                call(pipe, inputs, guider, 2 if tiny else 6)
                machine.wait()
                first = time.perf_counter() - start
                taken = step_ms(machine, pipe, inputs, guider, 2 if tiny else 10)
                return graphs() - before, taken, first

            found = page.attempt(f"compiled {kind}, {variant}", measure)
            if found is not None:
                page.row(kind, variant, found[0], f"{found[1]:.2f}", f"{found[2]:.1f}")
    torch._dynamo.reset()


def align(page: Page, machine: Machine, tiny: bool) -> None:
    """Peak memory of reward backpropagation for K network calls that carry gradients."""
    import align_memory

    page.section(
        "Reward backpropagation", ["shape", "batch", "K", "peak, MiB"],
        "Of 8 steps with checkpoints, beyond the weights.",
    )  # fmt: skip
    counts = (1,) if tiny else (1, 4, 8)
    for name, batch in (("sd15", 4), ("sdxl", 1)):
        if not page.has(15 if machine.gpu else 1, f"align {name}"):
            continue
        pipe, inputs = align_memory.shaped(name, batch, machine.device, tiny)
        align_memory.trained(pipe)
        for k in counts:
            if not page.has(8 if machine.gpu else 0, f"align {name}, K = {k}"):
                continue

            def once(k: int = k, pipe: Any = pipe, inputs: Any = inputs) -> None:
                align_memory.once(pipe, inputs, 2 if tiny else 8, k, checkpointing=True)

            peak = page.attempt(f"align {name}, K = {k}", lambda once=once: machine.peak(once))
            page.row(name, batch, k, shown(peak, 0))
        del pipe, inputs
        machine.empty()


def evaluate(page: Page, machine: Machine, tiny: bool) -> None:
    """Pictures a second of ``guiders evaluate``, drawn and measured."""
    few, many = (2, 4) if tiny else (256, 1280)
    page.section(
        "`guiders evaluate`", ["pictures", "steps", "pictures a second"],
        f"The emoji model with CFG: the slope between {few} and {many} pictures.",
    )  # fmt: skip
    steps = 1 if tiny else 15
    taken = []
    for count in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            words = [
                "evaluate", "--guider", "cfg", "--num-images", str(count), "--out", folder,
                "--num-inference-steps", str(steps), "--device", machine.device, "--batch-size",
                str(min(count, 128)),
            ]  # fmt: skip
            if tiny:
                words += ["--metrics", "saturation"]
            said = io.StringIO()
            with (
                warnings.catch_warnings(),
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(said),
            ):
                failed = commands.main(words)
            taken.append(time.perf_counter() - start)
            if failed:
                raise RuntimeError(said.getvalue().strip().splitlines()[-1])
    page.row(many, steps, f"{(many - few) / (taken[1] - taken[0]):.1f}")


Section = Callable[[Page, Machine, bool], None]
# In order of value, each with the seconds that it is worth starting with on a GPU.
SECTIONS: dict[str, tuple[float, Section]] = {
    "guiders": (20, every),
    "waits": (10, waits),
    "sdxl": (15, speed("sdxl")),
    "flux": (30, speed("flux")),
    "offload": (15, offload),
    "compiled": (30, compiled),
    "sd15": (10, speed("sd15")),
    "sd3": (15, speed("sd3")),
    "align": (25, align),
    "video": (30, speed("wan")),
    "evaluate": (20, evaluate),
}


def within(seconds: float, call: Callable[[], Any]) -> None:
    """Call it, and interrupt it when the time is over.

    Raises:
        TimeoutError: it was.
    """

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError("the time was over")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=200, help="for all (default: 200)")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument("--tiny", action="store_true", help="tiny networks, on the CPU")
    parser.add_argument("--out", type=Path, help="(default: benchmarks/results/gpu-NAME.md)")
    args = parser.parse_args(arguments)
    if not args.tiny and not torch.cuda.is_available():
        print("gpu: expected a CUDA device, got none; --tiny tries the script on the CPU")
        return 2
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    source = origin(shlex.join(["python", "benchmarks/gpu.py", *arguments]))
    slug = re.sub(r"[^a-z0-9]+", "-", source["machine"].lower()).strip("-")
    page = Page(args.out or RESULTS / f"gpu-{slug}.md", source, args.seconds)
    machine = Machine("cpu" if args.tiny else "cuda")
    for name, (least, section) in SECTIONS.items():
        if name in args.only and page.has(least if machine.gpu else 0, name):
            whole = functools.partial(section, page, machine, args.tiny)
            page.attempt(name, lambda whole=whole: within(page.left, whole))
            machine.empty()
    page.save()
    print(page.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
