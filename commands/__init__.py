"""The ``guiders`` command; a file for each of its commands, with ``add`` and ``run``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from ..pipelines.machine import THREADS, fixed_threads
from . import advise, align, compare, evaluate, fit, generate, grid, listing, profile, tune

COMMANDS = (generate, grid, evaluate, compare, tune, profile, advise, align, fit, listing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns 0 when done, 1 failed, 2 not allowed, 130 interrupted."""
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


def _hush() -> None:
    """No bars and notices of loading; downloads keep theirs."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a person reads it, without the line of code that gave it."""
    print(f"guiders: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _complain(error: Exception, code: int) -> int:
    print(f"guiders: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(prog="guiders", description="Guided text-to-image generation.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return top
