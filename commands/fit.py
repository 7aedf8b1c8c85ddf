"""``guiders fit linear-ag``: the coefficients of LinearAG for a model and its settings."""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
from pathlib import Path

from .. import models
from ..evals.storage.prompts import SETS, load_prompts
from ..guidance.engine.config import reject
from ..guidance.references.linear_ag import ESTIMATE, NONE, SPACES, TRUE
from ..pipelines.calibration.fit_linear_ag import fit_linear_ag
from ..pipelines.generation.settings import Settings
from .settings import Commands, add_run, check_count, make_folder, pipeline_of

LETTERS = {"t": TRUE, "e": ESTIMATE, "n": NONE}


def add(commands: Commands) -> None:
    fit = commands.add_parser(
        "fit", help="fit a method to a model", description="Fit a method to a model."
    )
    methods = fit.add_subparsers(dest="method", required=True, metavar="METHOD")
    one = methods.add_parser(
        "linear-ag",
        help="the coefficients of LinearAG",
        description="Fit the coefficients of LinearAG on paths of CFG, print how good the "
        "estimates are on other paths, and store both.",
    )
    add = one.add_argument
    add("--prompts", default="", help=f"{', '.join(SETS)}, or a file (default for emoji: emoji)")
    add(
        "--paths",
        type=int,
        default=200,
        help="paths to fit on; a fifth as many are drawn to test the fit (default: 200)",
    )
    add("--guidance-scale", type=float, default=7.5, help="of CFG (default: 7.5)")
    add(
        "--policy",
        help="a letter for each step: t (true), e (estimate) or n (none), as in tetetennnn",
    )
    add("--history", type=int, help="number of earlier steps that an estimate uses (default: all)")
    add(
        "--ridge",
        type=float,
        default=1e-6,
        help="ridge, relative to the mean diagonal (default: 1e-6)",
    )
    add(
        "--rounds",
        type=int,
        default=1,
        help="number of fits on paths that the estimates themselves take (default: 1)",
    )
    add(
        "--space",
        default="eps",
        help=f"space of the predictions: {', '.join(SPACES)} (default: eps)",
    )
    add("--batch-size", type=int, default=8, help="paths drawn at once (default: 8)")
    add("--out", type=Path, default=Path("linear-ag.safetensors"), help="file to write")
    add_run(one, steps=20)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    given = vars(args)
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = {"num_inference_steps": 20} | {n: given[n] for n in names & given.keys()}
    check_count("paths", args.paths)
    prompts = prompts_of(args.prompts, given.get("model", "emoji"))
    random.Random(given.get("seed", 0)).shuffle(prompts)
    # Prompts of the paths that are held out are not fitted on, where there are enough.
    aside = len(prompts) // 5
    sides = [(args.paths, prompts[aside:]), (-(-args.paths // 5), prompts[:aside] or prompts)]
    first = given.get("seed", 0)
    jobs: list[Settings] = []
    held_out: list[Settings] = []
    for paths, (count, texts) in zip((jobs, held_out), sides, strict=True):
        for number in range(count):
            place = first + len(jobs) + len(held_out)
            paths.append(Settings(texts[number % len(texts)], None, **settings | {"seed": place}))
    if jobs[0].skip:
        raise reject("", "skip", jobs[0].skip, "none for a fit")
    policy = None
    if args.policy is not None:
        if set(args.policy.lower()) - LETTERS.keys() or not args.policy:
            raise reject("", "policy", args.policy, "a letter for each step, of t, e and n")
        policy = [LETTERS[letter] for letter in args.policy.lower()]
    check_out(args.out)
    pipe = pipeline_of(jobs[0], args.device)
    pipe.set_progress_bar_config(disable=True)
    fit = fit_linear_ag(
        pipe, jobs, args.guidance_scale, held_out=held_out, policy=policy, space=args.space,
        history=args.history, ridge=args.ridge, rounds=args.rounds, batch_size=args.batch_size,
    )  # fmt: skip
    fit.coefficients.save(args.out)
    print(fit)
    print(args.out)


def prompts_of(source: str, model: str) -> list[str]:
    """The prompts of a set or a file; by default the model's own.

    Raises:
        ValueError: there are none.
    """
    source = source or models.defaults(model).prompts
    if not source:
        raise ValueError("prompts: expected a set, or a file with a prompt in each line, got none")
    return list(load_prompts(source).texts)


def check_out(path: Path) -> None:
    """Before anything is drawn: can the file be written, without losing another?"""
    if path.suffix != ".safetensors":
        raise reject("", "out", str(path), "a .safetensors file")
    if os.path.lexists(path):
        raise reject("", "out", str(path), "a new file, since this one exists")
    make_folder(path.parent)
