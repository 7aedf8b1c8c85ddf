"""``guiders profile``: measure what guidance does to a model."""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

from ..evals.calibration.chart import write_chart
from ..evals.calibration.measure import LEAST, measure
from ..evals.storage.prompts import SETS
from ..guidance import Profile, Term
from ..guidance.engine.config import as_integer, reject
from ..pipelines.generation.settings import Settings
from ..pipelines.language.parse import parse_guider
from .fit import prompts_of
from .settings import Commands, add_run, make_folder, pipeline_of

SCALES, PROMPTS = "7.5", 64


def add(commands: Commands) -> None:
    one = commands.add_parser(
        "profile",
        help="measure what guidance does to a model",
        description="Draw pictures with CFG and write what guidance does at each noise level, by "
        "which adaptive(save=0.25), interval(keep=0.95), apg(rescale=p90) and apg(match(7.5)) "
        "become numbers for this model and these steps. It takes at most two plain runs of the "
        "prompts for each scale. A file of the same model, steps and prompts is added to.",
    )
    add = one.add_argument
    add("--prompts", default="", help=f"{', '.join(SETS)}, or a file (default for emoji: emoji)")
    add(
        "--num-prompts",
        type=int,
        help="number of prompts; the more, the better (default: 64, or all)",
    )
    add("--scales", default=SCALES, help=f"of CFG, between commas (default: {SCALES})")
    add(
        "--guider", action="append", default=None, metavar="GUIDER",
        help="also measure along the trajectory of this guider; may be repeated, such as "
        "'cfg(2, reference=weak-model(emoji-weak))'",
    )  # fmt: skip
    add("--batch-size", type=int, default=4, help="pictures drawn at once (default: 4)")
    add("--out", type=Path, default=Path("profile.json"), help="(default: profile.json)")
    add_run(one)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    given = vars(args)
    scales = scales_of(args.scales)
    guiders = [_term(text) for text in args.guider or ()]
    names = ("model", "num_inference_steps", "seed", "negative_prompt", "width", "height",
             "scheduler", "dtype")  # fmt: skip
    settings = {name: given[name] for name in names if name in given}
    first = Settings("", None, **settings)
    if "skip" in given:
        raise reject("", "skip", given["skip"], "none for a profile")
    prompts = prompts_of(args.prompts, first.model)
    random.Random(first.seed).shuffle(prompts)
    count = min(PROMPTS, len(prompts)) if args.num_prompts is None else args.num_prompts
    as_integer("", "num_prompts", count, low=LEAST, high=len(prompts))
    if args.out.suffix != ".json":
        raise reject("", "out", str(args.out), "a .json file")
    before = Profile.load(args.out) if os.path.lexists(args.out) else None
    beside = args.out.with_suffix(".svg")
    if before is None and os.path.lexists(beside):
        raise ValueError(
            f"out: expected a name whose picture is not there yet, got {str(args.out)!r}, whose "
            f"picture would be {beside}, which exists"
        )
    make_folder(args.out.parent)
    pipe = pipeline_of(first, args.device)
    pipe.set_progress_bar_config(disable=True)
    for profile in measure(
        pipe, prompts[:count], scales, guiders, batch_size=args.batch_size,
        before=before, **settings,
    ):  # fmt: skip
        profile.save(args.out)
        picture = write_chart(profile, beside)
    if profile is before:
        print("nothing to measure: it is all there")
    else:
        print(f"{profile.cost:.2f} plain runs of {count} prompts for each scale")
    print(f"{args.out}  {os.path.getsize(args.out) / 1000:.0f} kB\n{picture}")


def scales_of(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise reject("", "scales", text, "numbers above 1 between commas") from None


def _term(text: str) -> Term:
    guider = parse_guider(text)
    if not isinstance(guider, Term):
        raise reject("", "guider", text, "one method, such as apg(10)")
    return guider
