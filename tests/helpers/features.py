"""Made-up features of pictures."""

import numpy as np


def sample(n: int, d: int, seed: int, shift: float = 0.0, dead: int = 0) -> np.ndarray:
    """Features (n, d) that depend on each other, the last ``dead`` of them always the same."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) / np.sqrt(d) + shift
    x[:, d - dead :] = 0.25
    return x
