"""The ``guiders`` command: ``generate``, ``grid``, ``list``."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import models
from ..guidance import CFG, Guider
from . import png, words
from .flags import guider_from
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
from .parse import UNGUIDED, arguments_of, gate_names, post_names, term_names


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
        "--x",
        metavar="AXIS",
        help="across (default: guider=none,cfg,apg,apg+adaptive, or scale=1,2,4,8 of one guider)",
    )
    grid.add_argument("--y", metavar="AXIS", help="down (default: the prompts)")
    grid.add_argument(
        "--out", type=Path, help="file for the grid (default: the next free out/grid-N.png)"
    )
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
    given = vars(args)
    stored = png.read(args.params_from) if args.params_from else {}
    if args.num_images < 1:
        raise ValueError(f"num_images is {args.num_images}; allowed is at least 1")
    guider = guider_from(given, stored)
    prompts = args.prompt or ([stored["prompt"]] if stored else [])
    if not prompts:
        raise ValueError("prompt is missing; allowed is at least one, or --params-from a picture")
    settings = [_settings(given, stored, guider, prompt) for prompt in prompts]
    jobs = [
        dataclasses.replace(one, seed=one.seed + number)
        for one in settings
        for number in range(args.num_images)
    ]
    _warn(jobs, guider)
    if args.out.suffix.lower() in (".png", ".jpg", ".webp"):
        raise ValueError(f"out is {str(args.out)!r}; allowed is a folder, pictures are numbered")
    _make_folder(args.out)
    pipe = _pipeline(settings[0], args.device)
    for picture in generate(pipe, jobs, guider, batch_size=args.batch_size):
        print(f"{save(picture, args.out)}  {picture.evaluations} evaluations", flush=True)


def _grid(args: argparse.Namespace) -> None:
    given = vars(args)
    prompts = args.prompt or []
    named = [name for name in ("guider", "guider_config") if name in given]
    x = Axis.parse(args.x or ("scale=1,2,4,8" if named else "guider=none,cfg,apg,apg+adaptive"))
    y = Axis.parse(args.y) if args.y else Axis("prompt", tuple(prompts))
    if x.name == y.name:
        raise ValueError(f"x and y are both {x.name}; allowed are two different axes")
    axes = {x.name, y.name}
    if not y.values or ("prompt" not in axes and not prompts):
        raise ValueError("prompt is missing; allowed is at least one, or an axis prompt=...")
    if args.y and prompts and (len(prompts) > 1 or "prompt" in axes):
        raise ValueError(f"prompt is {prompts!r}; allowed is one that is not on an axis as well")
    for name, flags in (("guider", named), ("scale", ["guidance_scale"]), ("seed", ["seed"]),
                        ("steps", ["num_inference_steps"])):  # fmt: skip
        for flag in flags:
            if name in axes and flag in given:
                raise ValueError(f"{flag} is {given[flag]!r}; allowed without an axis {name}=...")
    out = args.out or next(
        path for n in itertools.count() if not (path := Path(f"out/grid-{n}.png")).exists()
    )
    if out.suffix.lower() != ".png":
        raise ValueError(f"out is {str(out)!r}; allowed is a .png file")

    cells: dict[tuple[Any, Any], tuple[Settings, Guider]] = {}
    for below in y.values:
        for across in x.values:
            cells[across, below] = _cell(given, prompts, {x.name: across, y.name: below})
    _warn([job for job, _ in cells.values()], *(guider for _, guider in cells.values()))
    _make_folder(out.parent)
    pipe = _pipeline(next(iter(cells.values()))[0], args.device)
    pipe.set_progress_bar_config(disable=True)

    def cell(across: Any, below: Any) -> Picture:
        job, guider = cells[across, below]
        return next(generate(pipe, [job], guider, quiet=True))

    text = png.grid_info([dataclasses.asdict(job) for job, _ in cells.values()])
    draw(x, y, cell).save(out, pnginfo=text)
    print(out)


def _cell(
    given: dict[str, Any], prompts: Sequence[str], values: dict[str, Any]
) -> tuple[Settings, Guider]:
    """The settings and the guider of one cell of a grid."""
    flags = {"scale": "guidance_scale", "steps": "num_inference_steps"}
    here = given | {flags.get(name, name): value for name, value in values.items()}
    if here.get("guider") == UNGUIDED:  # a column of its own, whatever the others are given
        for name in ("guidance_scale", "guider_arg", "interval", "adaptive"):
            here.pop(name, None)
    guider = guider_from(here, {})
    prompt = values["prompt"] if "prompt" in values else prompts[0]
    return _settings(here, {}, guider, prompt), guider


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


def _settings(
    given: dict[str, Any], stored: dict[str, Any], guider: Guider, prompt: str
) -> Settings:
    names = {field.name for field in dataclasses.fields(Settings)} - {"guider", "prompt"}
    values = {name: value for name, value in {**stored, **given}.items() if name in names}
    return Settings(prompt=prompt, guider=guider.to_dict(), **values)


def _pipeline(settings: Settings, device: str) -> Any:
    return load_pipeline(
        settings.model, scheduler=settings.scheduler, device=device, dtype=settings.dtype
    )


def _make_folder(path: Path) -> None:
    """Before anything is drawn, so that nothing drawn is lost."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out is {str(path)!r}; allowed is a folder ({error})") from None
    if not os.access(path, os.W_OK):
        raise ValueError(f"out is {str(path)!r}; allowed is a folder that can be written")


def _warn(jobs: Sequence[Settings], *guiders: Guider) -> None:
    unknown: dict[str, list[str]] = {}
    for prompt in dict.fromkeys(text for job in jobs for text in (job.prompt, job.negative_prompt)):
        unknown |= words.unknown_words(prompt, model_folder(jobs[0].model))
    if unknown:
        print(f"guiders: warning: {words.warning(unknown)}", file=sys.stderr)
    if jobs[0].negative_prompt and all(guider == CFG(1) for guider in guiders):
        print("guiders: warning: negative_prompt has no effect without guidance", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
