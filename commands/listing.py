"""``guiders list``: what can be chosen."""

from __future__ import annotations

import argparse

from .. import models
from ..pipelines.generation.settings import SCHEDULERS
from ..pipelines.language.names import (
    arguments_of,
    gate_names,
    hyphenated,
    reference_names,
    schedule_names,
    term_names,
    transform_names,
)
from ..pipelines.presets.published import PUBLISHED
from ..pipelines.rewards import NAMES
from .settings import Commands


def add(commands: Commands) -> None:
    listing = commands.add_parser(
        "list",
        help="list models, guiders, rewards and schedulers",
        description="List models, guiders, rewards and schedulers.",
    )
    listing.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    print("models")
    for name, text in models.NAMES.items():
        print(f"  {name}: {text}")
    for title, kinds in (
        ("guiders", term_names()),
        ("references, as in cfg(2, reference=NAME(...))", reference_names()),
        ("schedules, as in cfg(NAME(...))", schedule_names()),
        ("when, as in cfg+NAME(...)", gate_names()),
        ("before and after, as in cfg+NAME(...)", transform_names()),
    ):
        print(title)
        for kind in kinds.values():
            about = (kind.__doc__ or "").splitlines()[0]
            print(f"  {hyphenated(kind)}({', '.join(arguments_of(kind))}): {about}")
    print("published by others, not measured here")
    for one in PUBLISHED:
        print(f"  {one.family}: {one.guider}  ({one.source})")
    print(f"rewards\n  {', '.join(NAMES)}, module:function")
    print(f"schedulers\n  {', '.join(SCHEDULERS)}")
