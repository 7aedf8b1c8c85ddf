"""Infer how an unknown pipeline combines its two branches, from what it gives to the scheduler."""

from __future__ import annotations

import torch
from torch import Tensor

from ..patch.call_arguments import crop
from .evaluation import StepEvaluation, output_of
from .layouts import Form


def tolerance(dtype: torch.dtype) -> float:
    """How far, relatively, rounding alone may take a tensor of this type."""
    return {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-3}.get(dtype, 1e-2)


def error(a: Tensor, b: Tensor) -> Tensor:
    """``|a - b| / |b|``; infinite for different shapes."""
    if a.shape != b.shape:
        return torch.tensor(torch.inf)
    a, b = a.detach().float(), b.detach().float()
    return (a - b).norm() / b.norm().clamp_min(1e-30)


def combination(combined: Tensor, first: Tensor, second: Tensor) -> tuple[int, bool] | None:
    """How ``sign * combined = first + w * (second - first)`` guides.

    Guidance extrapolates from the negative branch through the positive one: w above 1 means that
    the second is the positive one, below 0 that the first is.

    Returns:
        The sign and whether the first one is positive; ``None`` where it is no such combination.
    """
    allowed = 5 * tolerance(first.dtype)  # the weight multiplies what the network rounded
    first, second = (crop(value, combined.shape[1:]).float() for value in (first, second))
    if not first.shape == second.shape == combined.shape:
        return None
    gap = second - first
    for sign in (1, -1):
        rest = sign * combined.float() - first
        weight = ((rest * gap).sum() / gap.square().sum().clamp_min(1e-30)).item()
        if not 0 <= weight <= 1 and error(first + weight * gap, sign * combined) <= allowed:
            return sign, weight < 0
    return None


def sign_of(combined: Tensor, output: Tensor) -> int | None:
    """1 or -1 if ``combined`` is the output or its negation, over the part both have."""
    part = crop(output, combined.shape[1:])
    allowed = tolerance(output.dtype)
    return next((sign for sign in (1, -1) if error(sign * combined, part) <= allowed), None)


def infer(
    now: StepEvaluation, seen: Tensor, batch: int, doubled: bool, name: str
) -> tuple[Form, bool]:
    """The form of a pipeline, from its first evaluation, in which its denoiser was left alone.

    Args:
        seen: what it is about to step its scheduler with.
        batch, doubled: images, and does it evaluate its negative branch?
        name: of its class, for messages.

    Returns:
        The form, and whether both branches agreed, so that their order is not known yet.

    Raises:
        RuntimeError: it is none that can be guided.
    """
    outputs = [output_of(result) for _, result in now.calls]
    rows = [len(each) for each in outputs]
    if doubled and rows == [2 * batch]:
        passes, (first, second) = 1, outputs[0].chunk(2)
    elif doubled and rows == [batch] * 2:
        passes, (first, second) = 2, outputs
    elif not doubled and rows == [batch]:
        passes, first, second = 1, outputs[0], outputs[0]
    else:
        raise RuntimeError(
            f"{name} called its denoiser with {' and '.join(map(str, rows))} rows at step "
            f"{now.step.index}, for {batch} images and a negative branch that is "
            f"{'on' if doubled else 'off'}; this pipeline cannot be guided"
        )
    upcast = seen.dtype == torch.float32 and first.dtype != torch.float32
    agree = bool(error(second, first) <= 1e-6)
    if agree:  # nothing to infer but the sign
        if sign := sign_of(seen[:batch], first):
            return Form(passes, sign=sign, upcast=upcast), True
    elif found := combination(seen[:batch], first, second):
        return Form(passes, positive_first=found[1], sign=found[0], upcast=upcast), False
    raise RuntimeError(
        f"{name} does not combine its branches as u + s * (c - u) before it steps its scheduler; "
        "this pipeline cannot be guided"
    )
