"""``guiders generate``: draw pictures."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ..guidance.engine.config import reject
from ..pipelines.calibration.settle import settle
from ..pipelines.generation import png
from ..pipelines.generation.generate import generate, save
from .flags import guider_from
from .settings import (
    Commands,
    add_settings,
    check_count,
    make_folder,
    pipeline_of,
    settings_of,
    warn,
    warn_of_length,
)


def add(commands: Commands) -> None:
    one = commands.add_parser("generate", help="draw pictures", description="Draw pictures.")
    one.add_argument("prompt", nargs="*", default=None, help="one or several prompts")
    one.add_argument(
        "--num-images",
        type=int,
        default=1,
        help="pictures of each prompt, of seeds that count up (default: 1)",
    )
    one.add_argument(
        "--batch-size", type=int, default=4, help="pictures drawn at once (default: 4)"
    )
    one.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for the pictures (default: out)"
    )
    one.add_argument(
        "--params-from",
        type=Path,
        help="use the settings stored in this PNG; other flags override them",
    )
    add_settings(one)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    given = vars(args)
    stored = png.read(args.params_from) if args.params_from else {}
    guider = guider_from(given, stored)
    prompts = args.prompt or ([stored["prompt"]] if stored else [])
    if not prompts:
        raise ValueError("prompt: expected at least one, or --params-from a picture, got none")
    check_count("num_images", args.num_images, len(prompts))
    settings = [settings_of(given, stored, guider, prompt) for prompt in prompts]
    last = settings[0].seed + args.num_images - 1
    dataclasses.replace(settings[0], seed=last)  # is allowed, too
    warn(settings, guider)
    if args.out.suffix.lower() in (".png", ".jpg", ".webp"):
        raise reject("", "out", str(args.out), "a folder, in which pictures are numbered")
    make_folder(args.out)
    pipe = pipeline_of(settings[0], args.device)
    warn_of_length(pipe, settings)
    guider = settle(pipe, settings[0], guider, args.profile)
    jobs = (
        dataclasses.replace(one, guider=guider.to_dict(), seed=one.seed + number)
        for one in settings
        for number in range(args.num_images)
    )
    for picture in generate(pipe, jobs, guider, batch_size=args.batch_size):
        print(f"{save(picture, args.out)}  {picture.evaluations} evaluations", flush=True)
