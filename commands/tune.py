"""``guiders tune``: search the best settings of a guider by a metric, and check them."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from .. import models
from ..evals.runs.manifest import Request
from ..evals.runs.registry import ALIASES, METRICS
from ..evals.storage.processes import Processes
from ..evals.tuning.objective import DIRECTIONS
from ..evals.tuning.page import markdown, write_tuning
from ..evals.tuning.tune import tune
from ..guidance import CFG
from ..pipelines.language.ranges import parse_space
from .evaluate import STEPS, add_measuring, plan_of, shared
from .settings import Commands, add_lora, add_profile, add_run, make_folder, pipeline_of

GUIDER, METRIC, BUDGET, IMAGES = "apg(scale=2..16, eta=0..1)", "fd", 40, 128


def add(commands: Commands) -> None:
    one = commands.add_parser(
        "tune",
        help="search the best settings of a guider",
        description="Search the best settings of a guider by a metric, all trials on the same "
        "prompts and seeds, and then see whether the best still is better on others. Start it "
        "again to go on after a kill, or with a larger budget.",
    )
    add = one.add_argument
    add(
        "--guider",
        default=GUIDER,
        help="guider with LOW..HIGH in place of numbers; without any, its scale is searched, 1..12 "
        f"(default: {GUIDER!r})",
    )
    add(
        "--metric",
        default=METRIC,
        help=f"{', '.join([*METRICS, *ALIASES])}, except those that need a baseline; a reward "
        "such as pickscore; or module:function, which takes pictures (B, 3, H, W) in [0, 1] and "
        f"prompts and returns scores (default: {METRIC})",
    )
    add(
        "--direction",
        default="",
        help=f"{' or '.join(DIRECTIONS)} is better, if the metric does not say",
    )
    add(
        "--target",
        type=float,
        help="the best value of the metric, if neither lower nor higher is better",
    )
    add(
        "--budget",
        type=int,
        default=BUDGET,
        metavar="TRIALS",
        help=f"number of trials, over all starts (default: {BUDGET})",
    )
    add("--out", type=Path, default=Path("out/tune"), help="folder (default: out/tune)")
    add_measuring(one, images=IMAGES)
    add_profile(one)
    add_lora(one)
    add_run(one, STEPS)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    plan = plan_of(vars(args), CFG(1))
    request = Request(
        plan=plan, count=IMAGES if args.num_images is None else args.num_images,
        metrics=(args.metric,),
        reference=args.reference or models.defaults(plan.settings.model).reference,
        **shared(vars(args)),
    )  # fmt: skip
    space = parse_space(args.guider)
    if len(space.parts) == 1:
        low, high = space.ranges[0].low, space.ranges[0].high
        print(
            f"guiders: guider {args.guider!r} has no range; its scale is searched, "
            f"{low:g}..{high:g}",
            file=sys.stderr,
        )
    make_folder(args.out)
    processes = Processes(args.device)
    tuning = tune(
        request, args.guider, args.out,
        functools.cache(lambda: pipeline_of(plan.settings, processes.device)), args.budget,
        direction=args.direction, target=args.target, profile=args.profile, processes=processes,
        after=lambda tuning: write_tuning(tuning, args.out),
    )  # fmt: skip
    print(markdown(tuning))
    print(args.out / "tune.html")
