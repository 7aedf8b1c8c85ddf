"""``guiders align``: fine-tune a model to a reward, as a LoRA."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import models
from ..guidance.engine.config import reject
from ..pipelines.generation.load import LORA, load_pipeline
from ..pipelines.machine import check_device
from .flags import guider_from
from .settings import Commands, add_machine, make_folder

if TYPE_CHECKING:
    from ..pipelines.align import AlignSettings

WHOLE = {
    "max-steps": "optimiser steps (default: 100)",
    "batch-size": "pictures drawn at once, on each device (default: 8)",
    "gradient-accumulation-steps": "batches for each optimiser step (default: 1)",
    "num-inference-steps": "(default: 30; refl 40)",
    "height": "pixels (default: the model's)",
    "width": "pixels (default: the model's)",
    "rank": "of the LoRA (default: 4)",
    "save-every": "steps between checkpoints (default: 10)",
    "eval-every": "steps between pictures of unseen prompts (default: 10)",
    "eval-prompts": "number of unseen prompts to draw (default: 8)",
    "eval-samples": "pictures of each unseen prompt (default: 2)",
    "seed": "(default: 0)",
}
NUMBERS = {
    "alpha": "of the LoRA (default: 4)",
    "learning-rate": "of AdamW (default: 1e-3; refl 1e-5)",
    "weight-decay": "of AdamW (default: 1e-4)",
    "max-grad-norm": "gradients are clipped to this norm (default: 1)",
    "eta": "of DDIM: 1 is stochastic, 0 is deterministic (default: 1)",
    "kl-weight": "weight of the squared distance to the base model's output (default: 0)",
    "weight-penalty": "weight of the squared size of the LoRA's change (default: 0)",
}
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def add(commands: Commands) -> None:
    one = commands.add_parser(
        "align",
        help="fine-tune a model to a reward, as a LoRA",
        description="Fine-tune a model to a differentiable reward by backpropagation through its "
        "sampler, as a LoRA that `pipe.load_lora_weights` loads. Started again with the same "
        "--out it goes on where it stopped.",
    )
    absent, more = argparse.SUPPRESS, one.add_argument
    more(
        "--reward",
        default="",
        help="such as 'aesthetic+0.1*brightness', module:function; `guiders list` has the names "
        "(default for emoji: emoji-clip)",
    )
    more(
        "--held-out-reward",
        help="measured and never trained with (default for emoji: emoji-judge)",
    )
    more(
        "--prompts",
        default="",
        help="a file with one in each line, emoji (default for emoji), or animals (default)",
    )
    more(
        "--unseen-prompts",
        default="",
        help="prompts that are only drawn and measured (default: a fifth of --prompts)",
    )
    more("--method", default="alignprop", help="alignprop (default), draft, draft-k, draft-lv, "
         "refl, drtune")  # fmt: skip
    more("--truncation", default=absent, help="gaussian, uniform, fixed, all or spaced")
    more("--truncation-steps", type=float, default=absent, help="evaluations with gradients")
    more("--early-stop", type=int, default=absent, help="end at one of the last N steps, at random")
    more("--loss", default=absent, help="linear, absolute or hinge")
    more("--target", type=float, default=absent, help="target of the absolute and the hinge loss")
    more("--model", default="emoji", help="emoji (default), a folder, or a Hub id")
    more("--scheduler", default="", help="as for generate (default: the model's)")
    more("--negative-prompt", default=absent)
    more("--guider", default=absent, help="guider while training, such as cfg (default), apg, none")
    more("--guidance-scale", type=float, default=absent, help="(default: 5)")
    more("--guider-arg", action="append", default=absent, metavar="KEY=VALUE")
    more("--target-modules", default=absent, help="names of layers between commas")
    more("--mixed-precision", default=absent, help="no (default), bf16 or fp16")
    more("--checkpointing", default=absent, help="calls (default), blocks or none")
    for names, kind in ((WHOLE, int), (NUMBERS, float)):
        for name, text in names.items():
            more(f"--{name}", type=kind, default=absent, help=text)
    add_machine(one)
    more("--out", type=Path, default=Path("lora"), help="folder (default: lora)")
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..pipelines.align import Trainer, prompts
    from ..pipelines.rewards import parse_reward

    given = vars(args)
    settings = settings_from(given)
    usual = models.defaults(args.model)
    source = args.prompts or usual.training_prompts
    words = prompts.read(source)
    if args.unseen_prompts:
        unseen = prompts.read(args.unseen_prompts)
    elif source in prompts.builtin():
        unseen = prompts.read(f"{source}-unseen")
    else:
        words, unseen = prompts.split_off(words)
    if set(words) & set(unseen):
        print("guiders: warning: the unseen prompts are trained with, too", file=sys.stderr)
    make_folder(args.out)
    wanted, judge = args.reward or usual.reward, args.held_out_reward or usual.judge
    if not wanted:
        raise ValueError("reward: expected one, as `guiders list` has them, got none")
    reward = parse_reward(wanted)
    if judge == wanted:
        raise reject("", "held_out_reward", judge, "another one than is trained with")
    held_out = parse_reward(judge, judges=True) if judge else None
    check_device(args.device)
    # On the host and in its precision: the trainer moves it to the device of this process.
    pipe = load_pipeline(
        args.model, scheduler=args.scheduler, device="cpu",
        dtype=PRECISIONS[settings.mixed_precision],
    )  # fmt: skip
    trainer = Trainer(
        pipe, reward, words, settings, args.out, unseen=unseen, held_out=held_out,
        device=args.device,
    )  # fmt: skip
    print(trainer.run() / LORA)


def settings_from(given: dict[str, Any]) -> AlignSettings:
    """The settings of the method that the flags name, with what the other flags change.

    Raises:
        ValueError: a flag is not allowed.
    """
    from ..pipelines.align import METHODS, AlignSettings, Truncation, settings_for

    names = {field.name for field in dataclasses.fields(AlignSettings)} - {"guider"}
    changes = {name: given[name] for name in names if name in given}
    if "target_modules" in changes:
        changes["target_modules"] = tuple(changes["target_modules"].split(","))
    if given["method"] != "refl":
        changes = {"num_inference_steps": 30, **changes}
    base = settings_for(given["method"])
    usual = METHODS[given["method"]].get("truncation", Truncation())  # for any number of steps
    kind = given.get("truncation", base.truncation.kind)
    for name, wrong, where in (
        (
            "target",
            given.get("loss", base.loss.kind) == "linear",
            "unless --loss is absolute or hinge",
        ),
        ("truncation_steps", kind in ("all", "uniform"), "beside this --truncation"),
    ):
        if given.get(name) is not None and wrong:
            raise reject("", name, given[name], f"none {where}")
    parts = {"truncation": "kind", "truncation_steps": "steps", "early_stop": "early_stop"}
    truncation = {new: given[old] for old, new in parts.items() if old in given}
    if truncation:
        changes["truncation"] = usual.replace(**truncation)
    loss = {new: given[old] for old, new in (("loss", "kind"), ("target", "target"))
            if isinstance(given.get(old), (str, float))}  # fmt: skip
    changes.pop("loss", None)
    if loss:
        changes["loss"] = base.loss.replace(**loss)
    scale = {} if given.get("guider") == "none" else {"guidance_scale": 5.0}
    flags = {key: value for key, value in given.items() if key.startswith("guid")}
    return settings_for(given["method"], guider=guider_from({**scale, **flags}, {}), **changes)
