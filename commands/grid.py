"""``guiders grid``: a labelled grid over two settings."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..guidance import Guider, intents
from ..guidance.engine.config import reject
from ..pipelines.calibration.settle import settle
from ..pipelines.generation import png
from ..pipelines.generation.generate import Picture, generate
from ..pipelines.generation.grid import AXES, Axis, Value, draw
from ..pipelines.generation.settings import Settings
from ..pipelines.language.parse import UNGUIDED
from .flags import guider_from
from .settings import (
    Commands,
    add_settings,
    make_folder,
    pipeline_of,
    settings_of,
    warn,
    warn_of_length,
)


def add(commands: Commands) -> None:
    grid = commands.add_parser(
        "grid",
        help="a labelled grid over two settings",
        description=f"A labelled grid. An axis is NAME=VALUES, NAME one of {', '.join(AXES)} and "
        "VALUES between commas, or between semicolons where they contain commas.",
    )
    grid.add_argument("prompt", nargs="*", default=None, help="prompts; several make the rows")
    grid.add_argument(
        "--x",
        metavar="AXIS",
        help="across (default: guider=none,cfg,apg,apg+adaptive, or scale=1,2,4,8 of one guider)",
    )
    grid.add_argument("--y", metavar="AXIS", help="down (default: the prompts)")
    grid.add_argument(
        "--out", type=Path, help="file for the grid (default: the next free out/grid-N.png)"
    )
    add_settings(grid)
    grid.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    given = vars(args)
    prompts = args.prompt or []
    named = [name for name in ("guider", "guider_config") if name in given]
    x = Axis.parse(args.x or ("scale=1,2,4,8" if named else "guider=none,cfg,apg,apg+adaptive"))
    y = Axis.parse(args.y) if args.y else Axis("prompt", tuple(prompts))
    if x.name == y.name:
        raise ValueError(f"x and y: expected two different axes, got {x.name} twice")
    axes = {x.name, y.name}
    if not y.values or ("prompt" not in axes and not prompts):
        raise ValueError("prompt: expected at least one, or an axis prompt=..., got none")
    if args.y and prompts and (len(prompts) > 1 or "prompt" in axes):
        raise reject("", "prompt", prompts, "one, and none beside an axis prompt=...")
    for name, flags in (("guider", named), ("scale", ["guidance_scale"]), ("seed", ["seed"]),
                        ("steps", ["num_inference_steps"])):  # fmt: skip
        for flag in flags:
            if name in axes and flag in given:
                raise reject("", flag, given[flag], f"none beside an axis {name}=...")
    out = args.out or next(
        path for n in itertools.count() if not (path := Path(f"out/grid-{n}.png")).exists()
    )
    if out.suffix.lower() != ".png":
        raise reject("", "out", str(out), "a .png file")

    cells: dict[tuple[Value, Value], tuple[Settings, Guider]] = {}
    for below in y.values:
        for across in x.values:
            cells[across, below] = cell_of(given, prompts, {x.name: across, y.name: below})
    guiders = [guider for _, guider in cells.values()]
    warn([job for job, _ in cells.values()], *guiders)
    if args.profile and not intents(guiders):
        warnings.warn("profile has no effect: no guider leaves anything to it", stacklevel=2)
    make_folder(out.parent)
    pipe = pipeline_of(next(iter(cells.values()))[0], args.device)
    pipe.set_progress_bar_config(disable=True)
    warn_of_length(pipe, [job for job, _ in cells.values()])

    for place, (job, guider) in cells.items():  # before anything is drawn
        if intents(guider):
            guider = settle(pipe, job, guider, args.profile)
            cells[place] = dataclasses.replace(job, guider=guider.to_dict()), guider

    def cell(across: Value, below: Value) -> Picture:
        job, guider = cells[across, below]
        return next(generate(pipe, [job], guider, quiet=True))

    picture = draw(x, y, cell)
    text = png.grid_info([dataclasses.asdict(job) for job, _ in cells.values()])
    png.save(out, picture, text)
    print(out)


def cell_of(
    given: dict[str, Any], prompts: Sequence[str], values: dict[str, Value]
) -> tuple[Settings, Guider]:
    """The settings and the guider of one cell of a grid.

    Args:
        given: the flags, by name.
        prompts: those of the command line.
        values: of the cell, by the name of the axis.
    """
    flags = {"scale": "guidance_scale", "steps": "num_inference_steps"}
    here = given | {flags.get(name, name): value for name, value in values.items()}
    if (
        str(here.get("guider", "")).strip().lower() == UNGUIDED
    ):  # a column of its own, whatever the others are given
        for name in ("guidance_scale", "guider_arg", "interval", "adaptive"):
            here.pop(name, None)
    guider = guider_from(here, {})
    prompt = str(values["prompt"]) if "prompt" in values else prompts[0]
    return settings_of(here, {}, guider, prompt), guider
