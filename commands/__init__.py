"""The ``guiders`` command; a file for each of its commands, with ``add`` and ``run``."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ..pipelines.generation.vocabulary import start_of
from ..pipelines.machine import THREADS, fixed_threads
from . import advise, align, compare, evaluate, fit, generate, grid, listing, profile, tune

# Flags of other programs, and ours in their place.
FLAGS = {
    "--steps": "--num-inference-steps", "--sampler": "--scheduler", "--cfg": "--guidance-scale",
    "--cfg-scale": "--guidance-scale", "--scale": "--guidance-scale", "--output": "--out",
    "--num-images-per-prompt": "--num-images", "--lora-weights": "--lora",
}  # fmt: skip
COMMANDS = (generate, grid, evaluate, compare, tune, profile, advise, align, fit, listing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        0 if it is done, 1 if it failed, 2 if something in it is refused, 130 if interrupted.
    """
    args = parser().parse_args(argv)
    warnings.showwarning = _warn
    _hush()
    try:
        with fixed_threads(getattr(args, "threads", THREADS)):
            args.run(args)
    except ValueError as error:
        return _complain(error, 2)
    except BrokenPipeError:  # the reader has gone, as in `guiders list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (RuntimeError, OSError) as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        print("guiders: interrupted", file=sys.stderr)
        return 130
    return 0


class Parser(argparse.ArgumentParser):
    """A parser that answers an unknown flag with the one that may be meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags, hints = re.findall(r"--[\w-]+", self.format_help()), []
            for name in (word.partition("=")[0] for word in unknown if word.startswith("--")):
                near = [FLAGS[name]] if FLAGS.get(name) in flags else []
                near = near or difflib.get_close_matches(name, flags, 1)
                hints += [f" (did you mean {one}?)" for one in near]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
        return found, unknown


def _hush() -> None:
    """Switch off progress bars and notices of loading; downloads keep their bars."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for handler in logging.getLogger("diffusers").handlers:
        handler.addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    """Shorten the notice in which Diffusers repeats the whole prompt that it cuts off."""
    record.msg, record.args = start_of(record.getMessage(), 300), ()
    return True


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning without the line of code that it comes from."""
    print(f"guiders: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _complain(error: Exception, code: int) -> int:
    print(f"guiders: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = Parser(prog="guiders", description="Guided text-to-image generation.")
    top.add_argument("--version", action="version", version=f"guiders {version('guiders')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return top
