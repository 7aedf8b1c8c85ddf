"""The settings of a picture: all that is needed to draw it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...guidance.engine.config import check_fields, choice, integer, reject
from ..language.parse import parse_skip

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "dpm++-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "evodiff": ("EVODiffMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TEXTS = ("prompt", "negative_prompt", "model", "skip", "lora")


@dataclass
class Settings:
    """Everything that a picture depends on; stored in it.

    Attributes:
        guider: the JSON form of the guider.
        scheduler: a name of ``SCHEDULERS``, or "" for the model's own.
        width, height: pixels; ``None`` is the model's own.
        skip: what leaves out whole evaluations, in words such as "sada", or "".
        lora: a file or folder with a LoRA for the model, or "".
        seed: of this one picture.

    Raises:
        ValueError: a setting is of the wrong type or out of range.
    """

    prompt: str
    guider: Any
    negative_prompt: str = ""
    model: str = "emoji"
    num_inference_steps: int = integer(30, low=1, high=1000)
    seed: int = integer(0, low=0, high=2**63 - 1)
    scheduler: str = choice("", "", *SCHEDULERS)
    width: int | None = integer(None, low=8, high=16384, optional=True)
    height: int | None = integer(None, low=8, high=16384, optional=True)
    dtype: str = choice("float32", *DTYPES)
    skip: str = ""
    lora: str = ""

    def __post_init__(self) -> None:
        for name in TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str) or not _is_unicode(value):
                raise reject("", name, value, "text")
        check_fields(self)
        parse_skip(self.skip)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
