"""Differentiable rewards: ``reward(images, prompts) -> scores``.

Images are (B, 3, H, W) in [0, 1]; scores are (B,), larger is better. A reward is a
``torch.nn.Module``; ``parse_reward("emoji-clip+0.1*brightness")`` makes one from words.
"""

from .parse import NAMES, Weighted, parse_reward
from .resize import CLIP_MEAN, CLIP_STD, Preprocess

__all__ = ["CLIP_MEAN", "CLIP_STD", "NAMES", "Preprocess", "Weighted", "parse_reward"]
