"""``guiders advise``: a profile in plain words."""

from __future__ import annotations

import argparse
import itertools
import shlex
import textwrap

from .. import models
from ..evals.calibration.advice import advise
from ..guidance import Profile, intents
from ..pipelines.language.parse import parse_guider
from .settings import Commands


def add(commands: Commands) -> None:
    one = commands.add_parser(
        "advise",
        help="say in plain words what a profile shows",
        description="Say what a profile shows, and the command that acts on each.",
    )
    one.add_argument(
        "profile", nargs="?", default="emoji-20",
        help="a file of `guiders profile`, or one that ships: "
        f"{', '.join(path.stem for path in models.profiles())} (default: emoji-20)",
    )  # fmt: skip
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    shipped = {path.stem: path for path in models.profiles()}
    profile = Profile.load(shipped.get(args.profile, args.profile))
    facts = profile.facts
    few = profile.effects[0].prompts
    print(
        f"{facts['model']}, {facts['num_inference_steps']} steps of {facts['scheduler']}, "
        f"{facts['prompts']} prompts, effects and colours from {few} of them"
    )
    model = shlex.quote(facts["model"])  # it may be a stranger's
    flags = f"--model {model} --num-inference-steps {facts['num_inference_steps']}"
    by_profile = "" if args.profile in shipped else f" --profile {shlex.quote(args.profile)}"
    for about, found in itertools.groupby(advise(profile), lambda one: one.about):
        print(f"\n{about}")
        for one in found:
            print(textwrap.fill(f"- {one.text}", 88, subsequent_indent="  "))
            if one.guider:
                more = by_profile if intents(parse_guider(one.guider)) else ""
                text = shlex.quote(one.guider)
                print(f"    guiders generate PROMPT --guider {text} {flags}{more}")
