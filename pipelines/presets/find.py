"""The profile of a pipeline, and the complaint if there is none."""

from __future__ import annotations

import functools
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import models
from ...guidance import Profile, Step, intents
from .published import Guiders, hints


def name_of(pipe: Any) -> str:
    """A name for a pipeline's model: of a shipped one, its folder, its Hub id, or its class."""
    source = str(getattr(pipe, "name_or_path", "") or "")
    for name in models.PIPELINES:
        if source and Path(source).resolve() == models.path(name).resolve():
            return name
    return (Path(source).name if Path(source).is_dir() else source) or type(pipe).__name__


def profile_of(
    pipe: Any,
    steps: Sequence[Step],
    wanted: Guiders,
    given: Profile | None,
    negative: str,
    skip: str,
) -> Profile:
    """The profile that turns the intent of guiders into numbers, by default the one that ships.

    There is a warning if it was measured on another model, scheduler or negative prompt.

    Args:
        pipe: the pipeline.
        steps: the evaluations of the run.
        wanted: the guiders.
        given: the profile to use, if there is one.
        negative: the run's negative prompt.
        skip: what leaves out whole evaluations in the run, as ``Settings.skip``.

    Raises:
        ValueError: no profile is given, and none ships.
    """
    profile = given or find_profile(pipe, steps, wanted)
    pairs = [
        ("model", name_of(pipe), profile.facts["model"]),
        ("pipeline", type(pipe).__name__, profile.facts["pipeline"]),
        ("scheduler", type(pipe.scheduler).__name__, profile.facts["scheduler"]),
        ("negative_prompt", negative, profile.facts.get("negative_prompt", "")),
        ("skip", skip, ""),
    ]
    for name, here, there in pairs:
        if here != there:
            warnings.warn(
                f"profile: the {name} of the run is {here!r} and the profile's is {there!r}; other "
                "numbers may be right for this run",
                stacklevel=2,
            )
            break
    return profile


def find_profile(pipe: Any, steps: Sequence[Step], wanted: Guiders) -> Profile:
    """The profile that ships for a pipeline and these steps.

    Args:
        pipe: the pipeline.
        steps: the evaluations of the run.
        wanted: the guiders whose intent it is for.

    Raises:
        ValueError: none ships; the message names the command that makes one.
    """
    name, here = name_of(pipe), [step.sigma for step in steps]
    there = [_load(path) for path in models.profiles(name)] if name in models.PIPELINES else []
    for profile in there:
        if profile.is_of(here):
            return profile
    what = ", ".join(dict.fromkeys(intents(wanted)))
    kind = type(pipe.scheduler).__name__
    count = sum(step.stage == 0 for step in steps)
    shipped = [f"{p.facts['num_inference_steps']} steps of {p.facts['scheduler']}" for p in there]
    source = str(getattr(pipe, "name_or_path", ""))
    model = source if name not in models.PIPELINES and Path(source).is_dir() else name
    prompts = "" if name in models.PIPELINES else "--prompts FILE "
    lines = [] if name in models.PIPELINES else hints(type(pipe).__name__, wanted)
    raise ValueError(
        f"guider has {what}, which needs a profile of {name} at {count} steps of {kind}"
        + (f" (there is one for {', one for '.join(shipped)})" if shipped else "")
        + f"; make one with `guiders profile --model {shlex.quote(model)} {prompts}"
        f"--num-inference-steps {count} --out profile.json` (and --scheduler, --width, --height as "
        "for the run), then give it as --profile profile.json, in Python as guided(..., profile=)"
        + "".join(f"; {line}" for line in lines)
    )


@functools.cache
def _load(path: Path) -> Profile:
    return Profile.load(path)
