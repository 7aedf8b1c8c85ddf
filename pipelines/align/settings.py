"""What an alignment run depends on, and the published methods as values of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from ...guidance import CFG, Config, Guider
from ...guidance.engine.config import Stored, choice, integer, no_setting, number, reject
from .lora import ATTENTION
from .truncation import Truncation


@dataclass(frozen=True)
class Loss(Config):
    """A reward as a loss, ``coefficient * mean(f(reward))``.

    Attributes:
        kind: f is ``-r`` (``linear``), ``|r - target|`` (``absolute``: AlignProp's for the
            aesthetic score, with target 10) or ``max(target - r, 0)`` (``hinge``: ReFL's for
            ImageReward, with target 2).
        coefficient: 0.01 in the released code of AlignProp, 0.001 in that of ReFL. Adam divides
            it out again, but for the clipped gradients.
    """

    kind: str = choice("linear", "linear", "absolute", "hinge")
    target: float = number(0)
    coefficient: float = number(0.01, low=0)

    def __call__(self, reward: Tensor) -> Tensor:
        """(B,) rewards to a number."""
        if self.kind == "linear":
            value = -reward
        elif self.kind == "absolute":
            value = (reward - self.target).abs()
        else:
            value = (self.target - reward).clamp_min(0)
        return self.coefficient * value.mean()


@dataclass(frozen=True)
class AlignSettings(Stored):
    """An alignment run. The defaults are those of AlignProp's released code, where it has one.

    Attributes:
        truncation: see ``Truncation``.
        loss: see ``Loss``.
        guider: guidance inside the loop; gradients flow through all branches. ``CFG(1)`` is none.
        max_steps: optimiser steps.
        batch_size: pictures of a trajectory, on each device.
        gradient_accumulation_steps: trajectories of an optimiser step, on each device.
        num_inference_steps: of the pipeline's scheduler.
        eta: of DDIM, 1 is stochastic; other schedulers take no notice.
        height, width: pixels; ``None`` is the model's own.
        negative_prompt: for all pictures.
        learning_rate, weight_decay, beta1, beta2, epsilon: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        rank, alpha, target_modules: of the LoRA.
        mixed_precision: ``bf16`` and ``fp16`` (GPUs only) are the type of all that is frozen; the
            LoRA stays in float32.
        checkpointing: ``calls`` keeps only the inputs of each network call; ``blocks`` also
            evaluates network and decoder block by block on the way back, for large pictures;
            ``none`` keeps everything.
        kl_weight: of the mean square between the network's output and the base's at each
            evaluation that carries gradients. The KL divergence of two reverse processes of equal
            variance is a weighted sum of these (the regularisation of DPOK, Fan et al. 2023,
            arXiv:2305.16381); the weights depend on the scheduler, and are 1 here. It costs one
            more evaluation each.
        weight_penalty: of the squared norm of the LoRA's change of the weights.
        save_every, eval_every: optimiser steps between checkpoints, and between pictures of unseen
            prompts.
        eval_prompts, eval_samples: so many unseen prompts, and pictures of each, at fixed seeds.
        seed: every random number of step n depends on this, n and the device's number alone.

    Raises:
        ValueError: a setting is not allowed.
    """

    truncation: Truncation = field(default_factory=Truncation)
    loss: Loss = field(default_factory=Loss)
    guider: Guider = field(default_factory=lambda: CFG(5))
    max_steps: int = integer(100, low=1)
    batch_size: int = integer(8, low=1)
    gradient_accumulation_steps: int = integer(1, low=1)
    num_inference_steps: int = integer(50, low=1)
    eta: float = number(1, low=0, high=1)
    height: int | None = integer(None, low=8, optional=True)
    width: int | None = integer(None, low=8, optional=True)
    negative_prompt: str = ""
    learning_rate: float = number(1e-3, low=0)
    weight_decay: float = number(1e-4, low=0)
    beta1: float = number(0.9, low=0, high=1)
    beta2: float = number(0.999, low=0, high=1)
    epsilon: float = number(1e-8, low=0)
    max_grad_norm: float = number(1, low=0)
    rank: int = integer(4, low=1)
    alpha: float = number(4, low=0)
    target_modules: tuple[str, ...] = ATTENTION
    mixed_precision: str = choice("no", "no", "bf16", "fp16")
    checkpointing: str = choice("calls", "calls", "blocks", "none")
    kl_weight: float = number(0, low=0)
    weight_penalty: float = number(0, low=0)
    save_every: int = integer(10, low=1)
    eval_every: int = integer(10, low=1)
    eval_prompts: int = integer(8, low=1)
    eval_samples: int = integer(2, low=1)
    seed: int = integer(0, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("truncation", Truncation), ("loss", Loss), ("guider", Guider)):
            if not isinstance(getattr(self, name), kind):
                raise reject(self, name, getattr(self, name), f"a {kind.__name__}")
        if (self.height is None) != (self.width is None):
            raise reject(self, "height", self.height, "both of height and width, or none")
        self._set("target_modules", tuple(self.target_modules))
        self._set("truncation", self.truncation.at(self.num_inference_steps))


# Each changes what it says of the defaults; everything else can be set beside it.
METHODS: dict[str, dict[str, Any]] = {
    "alignprop": {},
    "draft": {"truncation": Truncation("all")},
    "draft-k": {"truncation": Truncation("fixed", 1)},
    "draft-lv": {"truncation": Truncation("fixed", 1, renoise=2)},
    "refl": {
        "truncation": Truncation("fixed", 1, early_stop=10),
        "loss": Loss("hinge", 2, 1e-3), "num_inference_steps": 40, "learning_rate": 1e-5,
    },
    "drtune": {"truncation": Truncation("spaced", 5, early_stop=5, detach_input=True)},
}  # fmt: skip


def settings_for(method: str = "alignprop", **changes: Any) -> AlignSettings:
    """The settings of a published method, with ``changes``.

    ``alignprop`` as released; ``draft``, ``draft-k`` and ``draft-lv`` with AlignProp's rates, since
    DRaFT's code is not public; ``refl`` as released, whose rate of 1e-5 is meant for all weights
    and slow for a LoRA. ``drtune`` is experimental: 5 evaluations and a stop at one of the last 5
    are this library's numbers, not the paper's. Where a run is shorter than they are meant for,
    early stop and evaluations are as ``Truncation.within`` says.

    Raises:
        ValueError: there is no such method, or a setting is not allowed.
    """
    if method not in METHODS:
        raise reject("", "method", method, f"one of {', '.join(METHODS)}")
    known = [one.name for one in fields(AlignSettings)]
    for name, value in changes.items():
        if name not in known:
            raise ValueError(no_setting(AlignSettings, name, value, known))
    settings = {**METHODS[method], **changes}
    if "truncation" in METHODS[method] and "truncation" not in changes:
        steps = settings.get("num_inference_steps", AlignSettings.num_inference_steps)
        if isinstance(steps, int):  # else it is complained of below
            settings["truncation"] = settings["truncation"].within(steps)
    return AlignSettings(**settings)
