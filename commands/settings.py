"""What the commands share: the flags for a picture's settings, and checks of them."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .. import models
from ..guidance import CFG, Guider
from ..guidance.engine.config import as_integer, reject
from ..pipelines.generation import vocabulary
from ..pipelines.generation.generate import MOST
from ..pipelines.generation.load import load_pipeline, model_folder
from ..pipelines.generation.settings import DTYPES, SCHEDULERS, Settings
from ..pipelines.machine import THREADS

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_settings(parser: argparse.ArgumentParser, steps: int = 30) -> None:
    """The flags for a guider and a run.

    They have no default here: ``--params-from`` has to know which ones were given.
    """
    absent = argparse.SUPPRESS
    add = parser.add_argument
    add(
        "--guider",
        default=absent,
        help="such as cfg (default), apg, none, 'apg+adaptive', 'cfg(5)+rescale', or a class of "
        "your own, 'mine.py:Halved(3)'; `guiders list` has all",
    )
    add(
        "--guidance-scale",
        type=float,
        default=absent,
        help="scale of the guider, 1 is no guidance (default: the guider's own)",
    )
    add(
        "--guider-arg",
        action="append",
        default=absent,
        metavar="KEY=VALUE",
        help="another setting of the guider, such as eta=0.2; may be repeated",
    )
    add(
        "--interval",
        nargs=2,
        type=float,
        default=absent,
        metavar=("LOW", "HIGH"),
        help="guide where LOW < sigma <= HIGH; the same as +interval(LOW, HIGH) in --guider",
    )
    add(
        "--adaptive",
        type=float,
        default=absent,
        metavar="THRESHOLD",
        help="stop guiding once the cosine of the two predictions reaches it; the same as "
        "+adaptive(THRESHOLD) in --guider",
    )
    add(
        "--guider-config",
        type=Path,
        default=absent,
        help="a guider stored as JSON, in place of --guider",
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
        help="profile of this model and steps, for a guider by intent such as "
        "cfg+adaptive(save=0.25); "
        "those that ship are found without it (the emoji model at "
        f"{', '.join(path.stem.split('-')[1] for path in models.profiles())} steps)",
    )


def add_lora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora", default=argparse.SUPPRESS, metavar="FOLDER_OR_FILE",
        help="a LoRA for the model, such as what guiders align made (default: none)",
    )  # fmt: skip


def add_run(parser: argparse.ArgumentParser, steps: int = 30) -> None:
    """The flags for a run, without those for its guider."""
    absent, add = argparse.SUPPRESS, parser.add_argument
    add(
        "--model", default=absent, help="emoji (default), a folder in Diffusers format, or a Hub id"
    )
    add("--negative-prompt", default=absent)
    add("--num-inference-steps", type=int, default=absent, help=f"(default: {steps})")
    add(
        "--seed",
        type=int,
        default=absent,
        help="seed of the first picture; the next ones count up (default: 0)",
    )
    add(
        "--scheduler",
        default=absent,
        help=f"the model's (default), or one of {', '.join(SCHEDULERS)}",
    )
    add(
        "--skip",
        default=absent,
        help="sada: leave out whole evaluations where the trajectory is smooth (default: none)",
    )
    add("--width", type=int, default=absent, help="pixels (default: the model's)")
    add("--height", type=int, default=absent, help="pixels (default: the model's)")
    add("--dtype", default=absent, help=f"one of {', '.join(DTYPES)} (default: float32)")
    add_machine(parser)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """The flags for the device and the threads; ``main`` sets the threads."""
    add = parser.add_argument
    add("--device", default="", help="such as cuda or cpu (default: the fastest there is)")
    add(
        "--threads",
        type=int,
        default=THREADS,
        help="threads of the CPU; they change the rounding, so their number is fixed, and results "
        f"do not depend on the cores (default: {THREADS}; large models on a CPU need more)",
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
    """Check a number of pictures before a list of them is made.

    Args:
        name: of the flag.
        value: pictures of each prompt.
        each: the number of prompts.

    Raises:
        ValueError: it is no whole number of at least 1, or there are too many pictures.
    """
    as_integer("", name, value, low=1, high=MOST // each)


def make_folder(path: Path) -> None:
    """Make the output folder before anything is drawn, so that no picture is lost.

    Raises:
        ValueError: it cannot be made, or not be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise reject("", "out", str(path), f"a folder ({error})") from None
    if not os.access(path, os.W_OK):
        raise reject("", "out", str(path), "a folder that can be written")


def prompts_in(jobs: Sequence[Settings]) -> list[str]:
    """All prompts and negative prompts, each once."""
    return list(dict.fromkeys(text for job in jobs for text in (job.prompt, job.negative_prompt)))


def warn_of_length(pipe: Any, jobs: Sequence[Settings]) -> None:
    """Warn of prompts that are cut off."""
    for prompt in prompts_in(jobs):
        if found := vocabulary.tokens_too_many(pipe, prompt):
            start = repr(vocabulary.start_of(prompt, 30))
            print(
                f"guiders: warning: the prompt {start} has {found[0]} tokens, of which the model "
                f"reads the first {found[1]}",
                file=sys.stderr,
            )


def warn(jobs: Sequence[Settings], *guiders: Guider) -> None:
    """Warn of words and negative prompts that have no effect."""
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
