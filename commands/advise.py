"""``guiders advise``: a profile in plain words."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from .. import models
from ..evals.advice import advise
from ..guidance import Profile


def add(commands: Any) -> None:
    one = commands.add_parser(
        "advise",
        help="a profile in plain words",
        description="Say what a profile shows, and the command that acts on each.",
    )
    one.add_argument(
        "profile", nargs="?", type=Path,
        help="a file of `guiders profile` (default: the emoji model's at 20 steps)",
    )  # fmt: skip
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    profile = Profile.load(args.profile or models.profiles("emoji")[1])
    facts = profile.facts
    print(f"{facts['model']}, {facts['num_inference_steps']} steps of {facts['scheduler']}, "
          f"{facts['prompts']} prompts")  # fmt: skip
    flags = f"--model {facts['model']} --num-inference-steps {facts['num_inference_steps']}"
    if args.profile:
        flags += f" --profile {args.profile}"
    for one in advise(profile):
        print()
        print(textwrap.fill(one.text, 88))
        if one.guider:
            print(f"    guiders generate ... --guider '{one.guider}' {flags}")
