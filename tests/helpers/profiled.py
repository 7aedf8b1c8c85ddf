"""A profile that takes a moment to measure."""

from typing import Any

import guiders

PROMPTS = [f"{word} {number}" for word in ("red", "cat", "a b c", "heart") for number in range(4)]


def measure(pipe: Any) -> guiders.Profile:
    """Of CFG at 3 and at 6 in eight steps."""
    return guiders.profile(pipe, PROMPTS, (3, 6), num_inference_steps=8, batch_size=8, quiet=True)
