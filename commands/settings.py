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
from ..guidance.engine.config import as_integer, reject
from ..pipelines.generation import vocabulary
from ..pipelines.generation.generate import MOST
from ..pipelines.generation.load import load_pipeline, model_folder
from ..pipelines.generation.settings import DTYPES, SCHEDULERS, Settings
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
    add_functions(parser)
    add_profile(parser)
    add_lora(parser)
    add_run(parser, steps)


def add_functions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--functions",
        action="store_true",
        help="let a guider stored as JSON or in a PNG import the classes and functions of your own "
        "that it names, such as mine.py:Halved; their code is run",
    )


def add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        type=Path,
        help="of this model and steps, for a guider by intent such as cfg+adaptive(save=0.25); "
        "those that ship are found without it (the emoji model at "
        f"{', '.join(path.stem.split('-')[1] for path in models.profiles())} steps)",
    )


def add_lora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora", default=argparse.SUPPRESS, metavar="FOLDER_OR_FILE",
        help="a LoRA for the model, such as what guiders align made (default: none)",
    )  # fmt: skip


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
    add("--skip", default=absent, help="sada leaves out whole evaluations (default: none)")
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
        settings.model, scheduler=settings.scheduler, device=device, dtype=settings.dtype,
        lora=settings.lora,
    )  # fmt: skip


def check_count(name: str, value: int, each: int = 1) -> None:
    """Complain of a number of pictures that nobody means, before there is a list of them.

    Args:
        each: so many prompts have that many pictures.
    """
    as_integer("", name, value, low=1, high=MOST // each)


def make_folder(path: Path) -> None:
    """Before anything is drawn, so that nothing drawn is lost."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise reject("", "out", str(path), f"a folder ({error})") from None
    if not os.access(path, os.W_OK):
        raise reject("", "out", str(path), "a folder that can be written")


def prompts_in(jobs: Sequence[Settings]) -> list[str]:
    """All prompts, and the negative ones, each once."""
    return list(dict.fromkeys(text for job in jobs for text in (job.prompt, job.negative_prompt)))


def warn_of_length(pipe: Any, jobs: Sequence[Settings]) -> None:
    """Say which prompts are cut off."""
    for prompt in prompts_in(jobs):
        if found := vocabulary.tokens_too_many(pipe, prompt):
            start = repr(vocabulary.start_of(prompt, 30))
            print(
                f"guiders: warning: the prompt {start} has {found[0]} tokens, of which the model "
                f"reads the first {found[1]}",
                file=sys.stderr,
            )


def warn(jobs: Sequence[Settings], *guiders: Guider) -> None:
    """Say what of the prompts, and of a negative prompt, has no effect."""
    unknown: dict[str, list[str]] = {}
    folder = model_folder(jobs[0].model)
    for prompt in prompts_in(jobs):
        unknown |= vocabulary.unknown_words(prompt, folder)
        if vocabulary.says_nothing(prompt, folder):
            text = repr(vocabulary.start_of(prompt, 60))
            print(f"guiders: warning: the model knows no word of {text}", file=sys.stderr)
    if unknown:
        print(f"guiders: warning: {vocabulary.warning(unknown)}", file=sys.stderr)
    if jobs[0].negative_prompt and all(guider == CFG(1) for guider in guiders):
        print("guiders: warning: negative_prompt has no effect without guidance", file=sys.stderr)
