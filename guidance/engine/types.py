"""What passes between a sampler, a guider and a network in one evaluation."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """In float64, or float32 on devices that have no more."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)
