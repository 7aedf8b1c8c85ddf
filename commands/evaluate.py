"""``guiders evaluate``: draw many pictures with one guider, or take a folder, and measure them."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import models
from ..evals.features.extractors import runs_code
from ..evals.metrics.estimates import Figure
from ..evals.report.text import shown
from ..evals.runs.evaluate import evaluate, prompts_of
from ..evals.runs.manifest import Request, model_facts, read_manifest
from ..evals.runs.measure import check_sources
from ..evals.runs.plan import Plan
from ..evals.runs.registry import ALIASES, METRICS, parse_metrics
from ..evals.storage.processes import Processes
from ..guidance import Guider, intents
from ..guidance.engine.config import reject
from ..pipelines.calibration.settle import settle
from .flags import guider_from
from .settings import Commands, add_settings, make_folder, pipeline_of, settings_of

DRAWN = "fd,precision,recall,clip,class,saturation,contrast,clipped,nfe,seconds,memory"
GIVEN = "saturation,contrast,clipped"
STEPS, IMAGES = 15, 256


def add(commands: Commands) -> None:
    one = commands.add_parser(
        "evaluate",
        help="draw many pictures and measure them",
        description="Draw many pictures with one guider, or take those of a folder, and measure "
        f"them. Metrics: {', '.join([*METRICS, *ALIASES])}; those that use a network take another "
        "one as fd:NETWORK. Start it with torchrun or accelerate launch for several processes, and "
        "start it again to go on after a kill.",
    )
    one.add_argument(
        "--pictures", default="", help="measure the pictures of this folder, and draw none"
    )
    one.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="MANIFEST",
        help="repeat the evaluation of this manifest",
    )
    one.add_argument(
        "--baseline", default="", help="folder of pictures that ssim, psnr and lpips compare with"
    )
    one.add_argument("--out", type=Path, help="folder of the results (default: out/evaluate)")
    add_measuring(one, f"{DRAWN}; without class for other models than emoji")
    add_settings(one, STEPS)
    one.set_defaults(run=run)


def add_measuring(parser: argparse.ArgumentParser, metrics: str = "", images: int = IMAGES) -> None:
    """The flags that ``evaluate``, ``compare`` and ``tune`` share; ``--metrics`` if it has some."""
    add = parser.add_argument
    add(
        "--prompts",
        default="",
        help="a set (emoji, emoji-held-out, geneval), a file, a folder or hub:NAME (default for "
        "emoji: emoji)",
    )
    add("--num-images", type=int, help=f"number of pictures to draw (default: {images})")
    if metrics:
        add("--metrics", default="", help=f"between commas (default: {metrics})")
    add(
        "--reference",
        default="",
        help="real pictures that fd, kid, precision and recall compare with: train (default for "
        "emoji), held-out, an .npz or .pkl of ADM, EDM2 or "
        "pytorch-fid, a folder, or hub:NAME",
    )
    add(
        "--batch-size",
        type=int,
        default=32,
        help="pictures drawn at once by one process (default: 32)",
    )
    add("--no-pictures", action="store_true", help="keep only features, and no pictures")
    add(
        "--bootstrap",
        type=int,
        metavar="N",
        help="resamplings for each interval (default: 200 where that takes seconds)",
    )
    add(
        "--neighbours",
        type=int,
        default=3,
        metavar="K",
        help="neighbours of precision, recall, density and coverage (default: 3)",
    )


def run(args: argparse.Namespace) -> None:
    before = read_manifest(args.source) if args.source else None
    if before:
        own = {"command", "run", "source", "out", "device", "functions"}
        usual = vars(parser_defaults())
        for name, value in vars(args).items():
            if name not in own and (name not in usual or usual[name] != value):
                raise reject("", name, value, "none beside --from, which says all")
        named = map(str, before["request"].get("metrics", ()))
        coded = [one for one in named if runs_code(ALIASES.get(one, one).partition(":")[2])]
        if coded:
            raise ValueError(
                f"manifest: expected metrics without code of their own, got {coded[0]}; name it "
                "yourself in a new evaluation"
            )
    request = Request.from_dict(before["request"]) if before else request_of(vars(args))
    if request.plan is not None and args.functions:  # imported now, it is known from here on
        Guider.from_dict(request.plan.settings.guider, functions=True)
    check_sources(parse_metrics(request.metrics, request.model), request.reference)
    out = args.out or Path("out/evaluate")
    make_folder(out)
    processes = Processes(args.device)
    load, model = None, None
    if request.plan is not None:
        settings = request.plan.settings
        load = functools.cache(lambda: pipeline_of(settings, processes.device))
        model = model_facts(load())
        if intents(request.plan.guider) or args.profile:
            request = settled(request, load(), args.profile)
        if before:
            check_same(before, request, model)
    found = evaluate(request, out, load, processes, model=model)
    if processes.first:
        print(table(request, found, before))
        print(out / "manifest.json")


def settled(request: Request, pipe: Any, profile: Path | None) -> Request:
    """The same with a guider of explicit numbers, as the manifest has it."""
    plan, prompts = request.plan, prompts_of(request)
    assert plan is not None
    assert prompts is not None
    job = dataclasses.replace(plan.settings, prompt=prompts[0])
    guider = settle(pipe, job, plan.guider, profile)
    settings = dataclasses.replace(plan.settings, guider=guider.to_dict())
    return dataclasses.replace(request, plan=dataclasses.replace(plan, settings=settings))


def parser_defaults() -> argparse.Namespace:
    """The flags' defaults."""
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    return parser.parse_args(["evaluate"])


def request_of(given: Mapping[str, Any]) -> Request:
    """What the flags ask for."""
    plan, usual = None, models.defaults(given.get("model", "emoji"))
    if given["pictures"]:
        drawing = {
            "guider", "guidance_scale", "guider_arg", "guider_config", "interval", "adaptive",
            "scheduler", "skip", "seed", "num_inference_steps", "negative_prompt", "width",
            "height", "dtype", "lora",
        }  # fmt: skip
        for name in sorted(drawing & set(given)):
            raise reject("", name, given[name], "none beside pictures, which are there already")
    else:
        plan = plan_of(given, guider_from(given, {}))
    default = (DRAWN if usual.classes else DRAWN.replace("class,", "")) if plan else GIVEN
    return Request(
        plan=plan, pictures=given["pictures"], prompts="" if plan else given["prompts"],
        count=given["num_images"] or (IMAGES if plan and given["num_images"] is None else 0),
        metrics=tuple((given["metrics"] or default).split(",")),
        reference=given["reference"] or usual.reference, baseline=given["baseline"],
        **shared(given),
    )  # fmt: skip


def shared(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a request that are flags of the same meaning."""
    return {
        "bootstrap": given["bootstrap"],
        "neighbours": given["neighbours"],
        "keep": not given["no_pictures"],
        "threads": given["threads"],
    }


def plan_of(given: Mapping[str, Any], guider: Guider) -> Plan:
    """The plan that the flags ask for.

    Raises:
        ValueError: there are no prompts, or a setting is not allowed.
    """
    settings = settings_of({"num_inference_steps": STEPS, **given}, {}, guider, "")
    prompts = given["prompts"] or models.defaults(settings.model).prompts
    if not prompts:
        raise ValueError("prompts: expected a set, a file, a folder or hub:NAME, got none")
    return Plan(settings, prompts, given["batch_size"], given["threads"])


def check_same(before: Mapping[str, Any], request: Request, model: Mapping[str, Any]) -> None:
    """Check that model and prompts are those of the manifest.

    Raises:
        ValueError: they are not.
    """
    prompts = prompts_of(request)
    pairs = [("model", before["model"]["sha256"], model["sha256"])]
    if prompts is not None:
        pairs.append(("prompts", before["prompts"]["sha256"], prompts.digest))
    for name, there, here in pairs:
        if there != here:
            raise ValueError(f"{name}: expected the manifest's sha256 {there}, got {here}")


def table(
    request: Request, found: Mapping[str, Figure], before: Mapping[str, Any] | None = None
) -> str:
    """A line for each figure, with the figure of the manifest ``before`` beside it."""
    lines = []
    for one in parse_metrics(request.metrics, request.model):
        if one.key not in found:
            continue
        text = f"{one.title:44} {shown(one, found[one.key].estimate)}"
        if before and one.key in before["figures"]:
            old = before["figures"][one.key]["value"]
            text += (
                "  as before"
                if old == found[one.key].value
                else f"  before {old:.{one.metric.digits}f}"
            )
        lines.append(text)
    return "\n".join(lines)
