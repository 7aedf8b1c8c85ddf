"""What the commands share: the flags of a picture's settings, and what is done with them."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import models
from ..guidance import CFG, Guider
from ..pipelines import words
from ..pipelines.generate import DTYPES, SCHEDULERS, Settings, load_pipeline, model_folder
from ..pipelines.machine import THREADS


def add_settings(parser: argparse.ArgumentParser, steps: int = 30) -> None:
    """Options whose absence must be told apart from their default, for --params-from."""
    absent = argparse.SUPPRESS
    add = parser.add_argument
    add(
        "--guider",
        default=absent,
        help="such as cfg (default), apg, none, 'apg+adaptive', 'cfg(5)+rescale'",
    )
    add(
        "--guidance-scale",
        type=float,
        default=absent,
        help="1 is no guidance (default: the guider's)",
    )
    add(
        "--guider-arg",
        action="append",
        default=absent,
        metavar="KEY=VALUE",
        help="another setting of the guider",
    )
    add(
        "--interval",
        nargs=2,
        type=float,
        default=absent,
        metavar=("LOW", "HIGH"),
        help="guide where LOW < sigma <= HIGH",
    )
    add(
        "--adaptive",
        type=float,
        default=absent,
        metavar="THRESHOLD",
        help="stop once the predictions' cosine is that",
    )
    add(
        "--guider-config",
        type=Path,
        default=absent,
        help="a guider stored as JSON, instead of --guider",
    )
    add_profile(parser)
    add_run(parser, steps)


def add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        type=Path,
        help="of this model and steps, for a guider by intent such as cfg+adaptive(save=0.25); "
        "those that ship are found without it (the emoji model at "
        f"{', '.join(path.stem.split('-')[1] for path in models.profiles())} steps)",
    )


def add_run(parser: argparse.ArgumentParser, steps: int = 30) -> None:
    """Those of them that a run has whatever its guider."""
    absent, add = argparse.SUPPRESS, parser.add_argument
    add(
        "--model", default=absent, help="emoji (default), a folder in Diffusers format, or a Hub id"
    )
    add("--negative-prompt", default=absent)
    add("--num-inference-steps", type=int, default=absent, help=f"(default: {steps})")
    add("--seed", type=int, default=absent, help="of the first picture (default: 0)")
    add("--scheduler", default=absent, help=f"the model's, or one of {', '.join(SCHEDULERS)}")
    add("--accelerate", default=absent, help="sada leaves out whole evaluations (default: none)")
    add("--width", type=int, default=absent, help="pixels (default: the model's)")
    add("--height", type=int, default=absent, help="pixels (default: the model's)")
    add("--dtype", default=absent, help=f"one of {', '.join(DTYPES)} (default: float32)")
    add_machine(parser)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """On what a command runs; ``main`` sees to the threads."""
    add = parser.add_argument
    add("--device", default="", help="such as cuda or cpu (default: the fastest there is)")
    add(
        "--threads",
        type=int,
        default=THREADS,
        help="of the CPU, where they change the rounding: fixed, so that results are the same on "
        f"any number of cores (default: {THREADS}; more are faster for large models without a GPU)",
    )


def settings_of(
    given: dict[str, Any], stored: dict[str, Any], guider: Guider, prompt: str
) -> Settings:
    names = {field.name for field in dataclasses.fields(Settings)} - {"guider", "prompt"}
    values = {name: value for name, value in {**stored, **given}.items() if name in names}
    return Settings(prompt=prompt, guider=guider.to_dict(), **values)


def pipeline_of(settings: Settings, device: str) -> Any:
    return load_pipeline(
        settings.model, scheduler=settings.scheduler, device=device, dtype=settings.dtype
    )


def make_folder(path: Path) -> None:
    """Before anything is drawn, so that nothing drawn is lost."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out is {str(path)!r}; allowed is a folder ({error})") from None
    if not os.access(path, os.W_OK):
        raise ValueError(f"out is {str(path)!r}; allowed is a folder that can be written")


def warn(jobs: Sequence[Settings], *guiders: Guider) -> None:
    unknown: dict[str, list[str]] = {}
    for prompt in dict.fromkeys(text for job in jobs for text in (job.prompt, job.negative_prompt)):
        unknown |= words.unknown_words(prompt, model_folder(jobs[0].model))
    if unknown:
        print(f"guiders: warning: {words.warning(unknown)}", file=sys.stderr)
    if jobs[0].negative_prompt and all(guider == CFG(1) for guider in guiders):
        print("guiders: warning: negative_prompt has no effect without guidance", file=sys.stderr)
