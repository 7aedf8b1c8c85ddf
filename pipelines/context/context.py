"""What guiders may ask of a pipeline: other prompts, pictures, classifiers, rewards."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...guidance import Condition, Context
from ...guidance.engine.noise import checksum
from ..patch.call_arguments import Inputs
from ..rewards import parse_reward
from .classifiers import load_classifier
from .decode import decode
from .probe import Captured, quiet_bar

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SWITCHES = ("guidance_scale", "true_cfg_scale")
PER_IMAGE = ("image", "mask", "video", "embeds")
DROPPED = ("generator", "latents", "callback_on_step_end", "callback", "output_type", "sigmas")


# As long as the pipeline lives beside which they are used.
_REWARDS: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


Prompt = str | int  # a text or a class


class PipelineContext(Context):
    """The context of one attached pipeline.

    Other prompts are told to the network as the pipeline itself would: it is called with them, and
    stopped when it calls its denoiser.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._pipe = pipe
        self._conditions: dict[Prompt, Condition] = {}
        self._asked: dict[str, Any] = {}
        self._own: list[Prompt] = []
        self._batch = 0
        self._generators: list[int] = []  # as they are before the run
        self._rewards = _REWARDS.setdefault(pipe, {})
        self._classifiers: dict[Any, Callable[[Tensor], Tensor]] = {}

    def prepare(
        self, call: Callable[..., Any], asked: dict[str, Any], prompts: Sequence[Prompt]
    ) -> None:
        """Before a run: whose pictures it will draw, and how the network is told ``prompts``.

        Args:
            call: the pipeline's own ``__call__``, with a denoiser that throws ``Captured``.
            asked: the arguments of the call to come.
        """
        name, self._own = _prompts(asked)
        self._asked, self._conditions, self.prompts = asked, {}, ()
        self._classifiers = {}
        generators = asked.get("generator")
        self._generators = [checksum(generator.get_state()) for generator in _listed(generators)]
        if not prompts:
            return
        if name is None:
            raise ValueError(
                f"{type(self._pipe).__name__} was called without a prompt; allowed is one, to be "
                "compared with those of the guider"
            )
        options = self._options(name, call)
        for prompt in dict.fromkeys([*prompts, *self._own]):
            told = self._capture(call, {**options, name: [prompt]})
            self._conditions[prompt] = Condition(str(prompt), told)

    def spread(self, batch: int) -> None:
        """Of a run of ``batch`` images each one's prompt is known now."""
        self._batch = batch
        copies, rest = divmod(batch, max(1, len(self._own)))
        self.prompts = [] if rest else [prompt for prompt in self._own for _ in range(copies)]

    @property
    def seeds(self) -> Sequence[int]:
        latents, generators, batch = self._asked.get("latents"), self._generators, self._batch
        if isinstance(latents, Tensor) and len(latents) == batch:
            return [checksum(image.float()) for image in latents]
        if len(generators) == 1:  # which draws one image after the other
            return [(generators[0] + image) % 2**32 for image in range(batch)]
        return generators if len(generators) == batch else []

    def condition(self, prompt: Any) -> Condition:
        return self._conditions[prompt]

    def decode(self, x0: Tensor) -> Tensor:
        return decode(self._pipe, x0, self._asked.get("height"), self._asked.get("width"))

    def classifier(self, name: str, prompts: Sequence[Any]) -> Callable[[Tensor], Tensor]:
        key = (name, *prompts)
        if key not in self._classifiers:
            self._classifiers[key] = load_classifier(name, prompts, self._device)
        return self._classifiers[key]

    def reward(self, name: str) -> Callable[[Tensor, Sequence[Any]], Tensor]:
        key = (name, self._device)
        if key not in self._rewards:
            reward: Any = parse_reward(name)
            if isinstance(reward, torch.nn.Module):
                reward = reward.to(self._device).eval().requires_grad_(False)
            self._rewards[key] = reward
        return self._rewards[key]

    @property
    def _device(self) -> torch.device:
        return getattr(self._pipe, "_execution_device", torch.device("cpu"))

    def _options(self, name: str, call: Callable[..., Any]) -> dict[str, Any]:
        """The arguments of the call to come, for one image and without its negative branch."""
        known = inspect.signature(call).parameters
        count = len(self._own)
        options = {
            key: value[:1] if count > 1 and _is_of_images(key, value, count) else value
            for key, value in self._asked.items()
            if key in known and key not in (*DROPPED, name)
            and "negative" not in key and "prompt_embeds" not in key
        }  # fmt: skip
        for key in known:
            if key in SWITCHES:
                options[key] = 1.0
            elif key.startswith("num_") and key.endswith("_per_prompt"):
                options[key] = 1
            elif key.startswith("prompt_") and key in options:  # a text for a second encoder
                options[key] = None
        return options

    def _capture(self, call: Callable[..., Any], options: dict[str, Any]) -> Inputs:
        devices, inputs = [self._device] if self._device.type == "cuda" else [], None
        try:
            with quiet_bar(self._pipe), torch.random.fork_rng(devices=devices), torch.no_grad():
                call(**options)
        except Captured as caught:
            inputs = caught.inputs
        if inputs is None:
            raise RuntimeError(f"{type(self._pipe).__name__} did not call its denoiser")
        if inputs.rows != 1:
            raise RuntimeError(
                f"{type(self._pipe).__name__} calls its denoiser with {inputs.rows} rows for one "
                "prompt; the guider's own prompts do not work with it"
            )
        return inputs


def _listed(generators: object) -> list[torch.Generator]:
    """The generators of a call, of which there may be one, one for each image, or none."""
    several = generators if isinstance(generators, (list, tuple)) else [generators]
    return [one for one in several if isinstance(one, torch.Generator)]


def _is_of_images(name: str, value: Any, count: int) -> bool:
    """Does an argument hold something for each of ``count`` images?"""
    several = isinstance(value, list) or (isinstance(value, Tensor) and value.dim() > 0)
    return several and len(value) == count and any(word in name for word in PER_IMAGE)


def _prompts(asked: dict[str, Any]) -> tuple[str | None, list[Prompt]]:
    """The name of the argument with the prompts or classes, and what it holds."""
    for name in ("prompt", "class_labels"):
        value = asked.get(name)
        if value is not None:
            return name, list(value) if isinstance(value, (list, tuple)) else [value]
    return None, []
