"""The ``guiders`` command: ``generate``, ``grid``, ``list``."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import models
from ..guidance import Adaptive, Guider, Interval, Sum
from ..guidance.config import build, fields_of
from . import png, words
from .generate import (
    DTYPES,
    SCHEDULERS,
    Picture,
    Settings,
    generate,
    load_pipeline,
    model_folder,
    save,
)
from .grid import AXES, Axis, draw
from .parse import (
    UNGUIDED,
    arguments_of,
    gate_names,
    parse_guider,
    post_names,
    read_settings,
    term_names,
)

DEFAULT_GUIDER = "cfg"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns 0 when done, 1 failed, 2 not allowed, 130 interrupted."""
    args = _parser().parse_args(argv)
    _hush()
    try:
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


def _complain(error: Exception, code: int) -> int:
    print(f"guiders: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="guiders", description="Guided text-to-image generation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("generate", help="draw pictures", description="Draw pictures.")
    one.add_argument("prompt", nargs="*", default=None, help="one or several prompts")
    one.add_argument(
        "--num-images", type=int, default=1, help="pictures of each prompt, seeds counting up"
    )
    one.add_argument("--batch-size", type=int, default=4, help="pictures drawn at once")
    one.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    one.add_argument(
        "--params-from",
        type=Path,
        help="take the settings stored in this PNG; other flags override",
    )
    _settings_options(one)
    one.set_defaults(run=_generate)

    grid = commands.add_parser(
        "grid",
        help="a labelled grid over two settings",
        description=f"A labelled grid. An axis is NAME=VALUES, NAME one of {', '.join(AXES)} and "
        "VALUES between commas, or between semicolons where they contain commas.",
    )
    grid.add_argument("prompt", nargs="*", default=None, help="prompts; several make the rows")
    grid.add_argument(
        "--x", metavar="AXIS", default="guider=none,cfg,apg,apg+adaptive", help="across"
    )
    grid.add_argument("--y", metavar="AXIS", help="down (default: the prompts)")
    grid.add_argument("--out", type=Path, default=Path("grid.png"), help="file for the grid")
    _settings_options(grid)
    grid.set_defaults(run=_grid)

    listing = commands.add_parser(
        "list", help="what can be chosen", description="What can be chosen."
    )
    listing.set_defaults(run=_list)
    return parser


def _settings_options(parser: argparse.ArgumentParser) -> None:
    """Options whose absence must be told apart from their default, for --params-from."""
    absent = argparse.SUPPRESS
    add = parser.add_argument
    add(
        "--model", default=absent, help="emoji (default), a folder in Diffusers format, or a Hub id"
    )
    add("--negative-prompt", default=absent)
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
    add("--num-inference-steps", type=int, default=absent, help="(default: 30)")
    add("--seed", type=int, default=absent, help="of the first picture (default: 0)")
    add("--scheduler", default=absent, help=f"the model's, or one of {', '.join(SCHEDULERS)}")
    add("--width", type=int, default=absent, help="pixels (default: the model's)")
    add("--height", type=int, default=absent, help="pixels (default: the model's)")
    add("--dtype", default=absent, help=f"one of {', '.join(DTYPES)} (default: float32)")
    add("--device", default="", help="such as cuda or cpu (default: the fastest there is)")


def _generate(args: argparse.Namespace) -> None:
    stored = png.read(args.params_from) if args.params_from else {}
    if args.num_images < 1:
        raise ValueError(f"num-images is {args.num_images}; allowed is at least 1")
    guider = _guider(vars(args), stored)
    settings = _settings(vars(args), stored, guider)
    prompts = args.prompt or ([stored["prompt"]] if "prompt" in stored else [])
    if not prompts:
        raise ValueError("prompt is missing; allowed is at least one, or --params-from a picture")
    _warn(prompts, settings, guider)
    jobs = [
        dataclasses.replace(settings, prompt=prompt, seed=settings.seed + number)
        for prompt in prompts
        for number in range(args.num_images)
    ]
    pipe = _pipeline(settings, args.device)
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"out is {str(args.out)!r}; allowed is a folder")
    for picture in generate(pipe, jobs, guider, batch_size=args.batch_size):
        print(f"{save(picture, args.out)}  {picture.evaluations} evaluations", flush=True)


def _grid(args: argparse.Namespace) -> None:
    given = vars(args)
    base = _guider(given, {})
    settings = _settings(given, {}, base)
    prompts = args.prompt or []
    x = Axis.parse(args.x)
    y = Axis.parse(args.y) if args.y else Axis("prompt", tuple(prompts))
    if not y.values:
        raise ValueError("prompt is missing; allowed is at least one, or an axis prompt=...")
    if x.name == y.name:
        raise ValueError(f"y is {args.y!r}; allowed is another axis than x (= {args.x!r})")
    shown = [v for axis in (x, y) if axis.name == "prompt" for v in axis.values] or prompts[:1]
    if not shown:
        raise ValueError("prompt is missing; allowed is at least one, or an axis prompt=...")
    if args.out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise ValueError(f"out is {str(args.out)!r}; allowed is a .png, .jpg or .webp file")
    _warn(shown, settings, base)
    pipe = _pipeline(settings, args.device)
    pipe.set_progress_bar_config(disable=True)

    def cell(values: dict[str, Any]) -> Picture:
        guider = base
        if "guider" in values:
            named = {**given, "guider": values["guider"]}
            guider = _guider(named, {}) if values["guider"] != UNGUIDED else parse_guider(UNGUIDED)
        if "scale" in values:
            guider = with_scale(guider, values["scale"])
        job = dataclasses.replace(
            settings,
            prompt=values.get("prompt", shown[0]),
            guider=guider.to_dict(),
            seed=values.get("seed", settings.seed),
            num_inference_steps=values.get("steps", settings.num_inference_steps),
        )
        return next(generate(pipe, [job], guider, quiet=True))

    sheet, _ = draw(x, y, cell)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out)
    print(args.out)


def _list(args: argparse.Namespace) -> None:
    print("models")
    for name, text in models.NAMES.items():
        print(f"  {name}: {text}")
    for title, kinds in (
        ("guiders", term_names()),
        ("when", gate_names()),
        ("after", post_names()),
    ):
        print(title)
        for name, kind in kinds.items():
            print(
                f"  {name}({', '.join(arguments_of(kind))}): {(kind.__doc__ or '').splitlines()[0]}"
            )
    print(f"schedulers\n  {', '.join(SCHEDULERS)}")


def _guider(given: dict[str, Any], stored: dict[str, Any]) -> Guider:
    """The guider of the flags, or the stored one with what the flags change."""
    scale, arguments = given.get("guidance_scale"), given.get("guider_arg", [])
    if "guider_config" in given:
        if "guider" in given:
            raise ValueError(
                f"guider is {given['guider']!r}; allowed is one of --guider and --guider-config"
            )
        guider = Guider.load(given["guider_config"])
    elif "guider" in given or "guider" not in stored:
        scale = stored.get("guidance_scale") if scale is None else scale
        guider = parse_guider(given.get("guider", DEFAULT_GUIDER), scale, arguments)
        scale, arguments = None, []
    else:
        guider = Guider.from_dict(stored["guider"])
    if arguments:
        if len(guider.terms) > 1 or guider.posts:
            raise ValueError(f"guider-arg is {arguments[0]!r}; allowed with one method only")
        settings = {f.name: getattr(guider, f.name) for f in fields_of(guider)}
        settings |= read_settings(type(guider).__name__, arguments, list(settings))
        guider = build(type(guider), settings)
    if scale is not None:
        guider = with_scale(guider, scale)
    if "interval" in given:
        low, high = given["interval"]
        guider = _gate(guider, Interval, low=low, high=high)
    if "adaptive" in given:
        guider = _gate(guider, Adaptive, threshold=given["adaptive"])
    return guider


def with_scale(guider: Guider, scale: float) -> Guider:
    """The same guider with another scale in every term, inside its gates."""

    def inner(value: Any) -> Any:
        nested = getattr(value, "scale", None)
        return value.replace(scale=inner(nested)) if hasattr(nested, "at") else scale

    return _rebuilt(guider, lambda term: term.replace(scale=inner(term.scale)))


def _gate(guider: Guider, kind: Any, **settings: float) -> Guider:
    return _rebuilt(guider, lambda term: term.replace(scale=kind(term.scale, **settings)))


def _rebuilt(guider: Guider, change: Any) -> Guider:
    terms = tuple(change(term) for term in guider.terms)
    return terms[0] if guider == guider.terms[0] else Sum(terms, guider.posts)


def _settings(given: dict[str, Any], stored: dict[str, Any], guider: Guider) -> Settings:
    names = {field.name for field in dataclasses.fields(Settings)} - {"guider", "prompt"}
    values = {name: value for name, value in {**stored, **given}.items() if name in names}
    settings = Settings(prompt="", guider=guider.to_dict(), **values)
    if settings.num_inference_steps < 1:
        raise ValueError(
            f"num-inference-steps is {settings.num_inference_steps}; allowed is at least 1"
        )
    if not 0 <= settings.seed < 2**63:
        raise ValueError(f"seed is {settings.seed}; allowed is a number from 0 to 2^63 - 1")
    return settings


def _pipeline(settings: Settings, device: str) -> Any:
    return load_pipeline(
        settings.model, scheduler=settings.scheduler, device=device, dtype=settings.dtype
    )


def _warn(prompts: Sequence[str], settings: Settings, guider: Guider) -> None:
    unknown: dict[str, list[str]] = {}
    for prompt in [*prompts, settings.negative_prompt]:
        unknown |= words.unknown_words(prompt, model_folder(settings.model))
    if unknown:
        print(f"guiders: warning: {words.warning(unknown)}", file=sys.stderr)
    if settings.negative_prompt and guider == parse_guider(UNGUIDED):
        print("guiders: warning: negative-prompt has no effect without guidance", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
