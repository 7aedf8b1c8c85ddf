"""What guiders may ask of a pipeline: other prompts, pictures, classifiers, rewards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..guidance import Condition, Context
from .classifiers import load_classifier
from .inputs import Inputs
from .pictures import decode
from .rewards import parse_reward

SWITCHES = ("guidance_scale", "true_cfg_scale")
DROPPED = ("generator", "latents", "callback_on_step_end", "callback", "output_type", "sigmas")


class Captured(BaseException):
    """What the denoiser was called with, thrown through the pipeline: no error."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs


class PipelineContext(Context):
    """The context of one attached pipeline.

    Other prompts are told to the network as the pipeline itself would: it is called with them, and
    stopped when it calls its denoiser.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._conditions: dict[Any, Condition] = {}
        self._asked: dict[str, Any] = {}
        self._networks: dict[Any, Callable[..., Tensor]] = {}

    def prepare(
        self, call: Callable[..., Any], asked: dict[str, Any], prompts: Sequence[Any]
    ) -> None:
        """Before a run: whose pictures it will draw, and how the network is told ``prompts``.

        Args:
            call: the pipeline's own ``__call__``, with a denoiser that throws ``Captured``.
            asked: the arguments of the call to come.
        """
        name, own = _prompts(asked)
        copies = int(asked.get("num_images_per_prompt") or asked.get("num_videos_per_prompt") or 1)
        self.prompts = [prompt for prompt in own for _ in range(copies)]
        self._asked, self._conditions = asked, {}
        if not prompts:
            return
        if name is None:
            raise ValueError(
                f"{type(self._pipe).__name__} was called without a prompt; allowed is one, to be "
                "compared with those of the guider"
            )
        every = list(dict.fromkeys([*prompts, *own]))
        inputs = self._capture(call, name, every)
        if inputs.rows != len(every):
            raise RuntimeError(
                f"{type(self._pipe).__name__} calls its denoiser with {inputs.rows} rows for "
                f"{len(every)} prompts; the guider's own prompts do not work with it"
            )
        for row, prompt in enumerate(every):
            self._conditions[prompt] = Condition(str(prompt), inputs.take([row]))

    def condition(self, prompt: Any) -> Condition:
        return self._conditions[prompt]

    def decode(self, x0: Tensor) -> Tensor:
        return decode(self._pipe, x0, self._asked.get("height"), self._asked.get("width"))

    def classifier(self, name: str, prompts: Sequence[Any]) -> Callable[[Tensor], Tensor]:
        key = (name, *prompts)
        if key not in self._networks:
            self._networks[key] = load_classifier(name, prompts, self._device)
        return self._networks[key]

    def reward(self, name: str) -> Callable[[Tensor, Sequence[Any]], Tensor]:
        if name not in self._networks:
            reward: Any = parse_reward(name)
            self._networks[name] = reward.to(self._device).eval().requires_grad_(False)
        return self._networks[name]

    @property
    def _device(self) -> torch.device:
        return getattr(self._pipe, "_execution_device", torch.device("cpu"))

    def _capture(self, call: Callable[..., Any], name: str, prompts: list[Any]) -> Inputs:
        known = inspect.signature(call).parameters
        options = {
            key: value
            for key, value in self._asked.items()
            if key not in DROPPED and "negative" not in key and "prompt_embeds" not in key
            and key in known and key != "self"
        }  # fmt: skip
        options |= {key: 1.0 for key in SWITCHES if key in known}
        options |= {key: 1 for key in ("num_images_per_prompt",) if key in known}
        for key in options:
            if key.startswith("prompt_"):  # a second text, for a second encoder
                options[key] = None
        options[name] = prompts
        bar = getattr(self._pipe, "_progress_bar_config", {})
        devices = [self._device] if self._device.type == "cuda" else []
        self._pipe.set_progress_bar_config(disable=True)
        try:
            with torch.random.fork_rng(devices=devices):
                call(**options)
        except Captured as caught:
            return caught.inputs
        finally:
            self._pipe._progress_bar_config = bar
        raise RuntimeError(f"{type(self._pipe).__name__} did not call its denoiser")


def _prompts(asked: dict[str, Any]) -> tuple[str | None, list[Any]]:
    """The name of the argument with the prompts or classes, and what it holds."""
    for name in ("prompt", "class_labels"):
        value = asked.get(name)
        if value is not None:
            return name, list(value) if isinstance(value, (list, tuple)) else [value]
    return None, []
