"""Reward backpropagation: fine-tune a pipeline to a differentiable reward, through a LoRA."""

from ..rewards.check import Reward, check_reward
from .backprop import Backprop, backpropagated
from .lora import Adapter
from .settings import METHODS, AlignSettings, Loss, settings_for
from .trainer import Trainer
from .truncation import Draw, Truncation

__all__ = [
    "METHODS", "Adapter", "AlignSettings", "Backprop", "Draw", "Loss", "Reward", "Trainer",
    "Truncation", "backpropagated", "check_reward", "settings_for",
]  # fmt: skip
