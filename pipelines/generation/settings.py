"""What a picture is drawn with: all that another run needs to draw it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..language.parse import parse_acceleration

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


@dataclass
class Settings:
    """Everything that a picture depends on; stored in it.

    Attributes:
        guider: the JSON form of the guider.
        scheduler: a name of ``SCHEDULERS``, or "" for the model's own.
        width, height: pixels; ``None`` is the model's own.
        accelerate: words such as "sada" that leave out evaluations, or "".
        lora: a file or folder with a LoRA for the model, or "".
        seed: of this one picture.

    Raises:
        ValueError: a setting is of the wrong type or out of range.
    """

    prompt: str
    guider: Any
    negative_prompt: str = ""
    model: str = "emoji"
    num_inference_steps: int = 30
    seed: int = 0
    scheduler: str = ""
    width: int | None = None
    height: int | None = None
    dtype: str = "float32"
    accelerate: str = ""
    lora: str = ""

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt", "model", "scheduler", "dtype", "accelerate",
                     "lora"):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, str) or not _is_unicode(value):
                raise ValueError(f"{name} is {value!r}; allowed is text")
        for name, low, high in (
            ("num_inference_steps", 1, 1000),
            ("seed", 0, 2**63 - 1),
            ("width", 8, 16384),
            ("height", 8, 16384),
        ):
            value = getattr(self, name)
            if value is None and name in ("width", "height"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                allowed = f"a whole number from {low} to {high}"
                raise ValueError(f"{name} is {value!r}; allowed is {allowed}")
        for name, table in (("scheduler", ["", *SCHEDULERS]), ("dtype", list(DTYPES))):
            if getattr(self, name) not in table:
                allowed = ", ".join(filter(None, table))
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed is one of {allowed}")
        parse_acceleration(self.accelerate)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
