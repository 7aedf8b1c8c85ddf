"""``guiders compare``: guiders against each other over the scale, as tables and a page."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import warnings
from pathlib import Path

from .. import models
from ..evals.comparison.compare import Method, compare
from ..evals.comparison.page import write_report
from ..evals.comparison.tables import markdown, write_tables
from ..evals.runs.manifest import Request
from ..evals.runs.plan import exact_scale
from ..evals.runs.registry import ALIASES, METRICS
from ..evals.storage.processes import Processes
from ..evals.storage.prompts import load_prompts
from ..guidance import CFG, Constant, Guider, Match, intents
from ..guidance.engine.config import reject
from ..pipelines.calibration.settle import settle
from ..pipelines.language.parse import UNGUIDED, parse_guider
from .evaluate import IMAGES, STEPS, add_measuring, plan_of, shared
from .flags import with_scale
from .settings import (
    Commands,
    add_functions,
    add_lora,
    add_profile,
    add_run,
    make_folder,
    pipeline_of,
)

GUIDERS, SCALES = ("cfg", "apg"), "1,2,4,8,12,16"
WANTED = "fd,clip,saturation,contrast,clipped,nfe"


def add(commands: Commands) -> None:
    one = commands.add_parser(
        "compare",
        help="guiders against each other over the scale",
        description="Draw the same prompts and seeds with every guider at every scale, measure "
        "them, and write tables and one page that shows it all. Start it again to go on after a "
        f"kill. Metrics: {', '.join([*METRICS, *ALIASES])}.",
    )
    one.add_argument(
        "--guider", action="append", default=None, metavar="GUIDER",
        help=f"several times; such as cfg, 'apg+adaptive', 'cfg(5)' at its own scale, {UNGUIDED}, "
        f"or a .json file (default: {' and '.join(GUIDERS)}); the first is the baseline of ssim, "
        "psnr and lpips",
    )  # fmt: skip
    one.add_argument("--scales", help=f"guidance scales, between commas (default: {SCALES})")
    one.add_argument(
        "--no-match",
        action="store_true",
        help="do not also draw CFG at the effective scale of each method",
    )
    one.add_argument("--out", type=Path, help="folder of the comparison (default: out/compare)")
    add_measuring(one, WANTED)
    add_functions(one)
    add_profile(one)
    add_lora(one)
    add_run(one, STEPS)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    given = vars(args)
    methods = [method_of(text, args.functions) for text in args.guider or GUIDERS]
    labels = [method.label for method in methods]
    if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        raise ValueError(f"guider: expected each name once, got {twice[0]!r} twice")
    scales = scales_of(SCALES if args.scales is None else args.scales)
    if args.scales is not None and (fixed := [one for one in methods if one.fixed is not None]):
        said = {one.label: f"{one.label} has its own" for one in fixed}
        said |= {"unguided": f"{UNGUIDED} has no scale"} if "unguided" in said else {}
        which = ", ".join(said.values())
        warnings.warn(f"scales is {args.scales}; not of every guider: {which}", stacklevel=2)
    plan = plan_of(given, CFG(1))
    request = Request(
        plan=plan, count=IMAGES if args.num_images is None else args.num_images,
        metrics=tuple((args.metrics or WANTED).split(",")),
        reference=args.reference or models.defaults(plan.settings.model).reference, **shared(given),
    )  # fmt: skip
    out = args.out or Path("out/compare")
    make_folder(out)
    processes = Processes(args.device)
    load = functools.cache(lambda: pipeline_of(plan.settings, processes.device))
    job = dataclasses.replace(plan.settings, prompt=load_prompts(plan.prompts)[0])

    def explicit(method: Method) -> Method:
        """Explicit numbers at every scale; one profile serves those with an intent."""

        def at(scale: float) -> Guider:
            guider = method.at(scale)
            return settle(load(), job, guider, args.profile) if intents(guider) else guider

        return dataclasses.replace(method, at=at)

    if args.profile and not intents([one.at(scale) for one in methods for scale in scales]):
        warnings.warn("profile has no effect: no guider leaves anything to it", stacklevel=2)
    methods = [explicit(method) for method in methods]
    comparison = compare(request, methods, scales, out, load, processes, not args.no_match)
    if processes.first:
        write_tables(comparison, out)
        page = write_report(comparison, out)
        print(markdown(comparison))
        print(page)


def method_of(text: str, functions: bool = False) -> Method:
    """A guider as the command line says it, at any scale.

    Args:
        text: its words, or the path of its .json file.
        functions: import the classes and functions that the file names, which runs code.

    Raises:
        ValueError: it is not a guider.
    """
    if text.endswith(".json"):
        guider = Guider.load(text, functions=functions)
        return Method(Path(text).stem, lambda scale: with_scale(guider, scale))
    if text.strip().lower() == UNGUIDED:
        return Method("unguided", lambda scale: CFG(1), fixed=1.0)
    own = parse_guider(text)
    try:
        parse_guider(text, 2.0)
    except ValueError:  # it says its scale itself
        when = own.terms[0].when.inner
        if isinstance(when, Match) and (strength := exact_scale(when.guider)) is not None:
            return Method(text, lambda scale: own, fixed=strength)
        if not isinstance(when, Constant):
            raise ValueError(
                "guider: expected one whose scale is a number, such as cfg+interval(0.3,5), to "
                f"compare at every scale, got {text!r}"
            ) from None
        return Method(text, lambda scale: own, fixed=when.scale)
    return Method(text, lambda scale: parse_guider(text, scale))


def scales_of(text: str) -> list[float]:
    """Numbers between commas, each once and in order.

    Raises:
        ValueError: one is no number of at least 0.
    """
    try:
        scales = sorted({float(item) for item in text.split(",")})
        if not all(0 <= scale < 1e6 for scale in scales):
            raise ValueError
    except ValueError:
        raise reject("", "scales", text, "numbers of at least 0 between commas") from None
    return scales
