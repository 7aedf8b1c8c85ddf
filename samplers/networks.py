"""Denoisers in the form that guiders ask: a ``Network`` that answers for several branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..guidance import Branch, Condition, Network, Prediction, Query, Readout
from ..guidance.engine.reference import Asked
from ..guidance.engine.tensors import take

Plain = Callable[..., Tensor]
"""``(x, sigma) -> x0``, or ``(x, sigma, condition) -> x0``: x, x0 (B, ...) with
``x = x0 + sigma * noise``, sigma a number, the condition one row for each image."""

CLEAN = Readout(0.0, 1.0)  # the output is x0
TOP = 1e4  # the sigma at which pure noise is asked about, where x0 is the mean of the data


def as_network(
    denoise: Plain,
    positive: Tensor | None = None,
    negative: Tensor | None = None,
    **others: Tensor,
) -> Network:
    """A ``Network`` of plain functions.

    Args:
        denoise: ``(x, sigma)``, or ``(x, sigma, condition)`` where a condition is given.
        positive: the condition of each image, (B, ...), such as class labels.
        negative: the condition of the negative branch, such as the label for nothing.
        others: conditions of further branches, by the name that a ``Branch`` has for them.

    A ``Condition`` of a context has for ``arguments`` a condition of one row. A branch of another
    model, such as ``WeakModel(weak)``, calls ``weak`` in the same way.
    """
    conditions = {"positive": positive, "negative": negative, **others}

    def network(q: Query, requests: Asked) -> Mapping[Branch, Prediction]:
        answers = {}
        for branch, rows in requests.items():
            known = isinstance(branch.condition, Condition) or branch.condition in conditions
            if not known or branch.change is not None or isinstance(branch.model, str):
                raise ValueError(
                    f"as_network: the guider asks for the {branch} prediction; allowed are "
                    "references that leave the network as it is, other networks themselves "
                    f"instead of their names, and the conditions {', '.join(conditions)}"
                )
            seen = q.rows(rows)
            if branch.elsewhere is not None:
                seen = replace(seen, x=branch.elsewhere.at(seen.x, q.step, rows))
            if isinstance(branch.condition, Condition):
                condition = branch.condition.arguments.expand(
                    len(rows), *branch.condition.arguments.shape[1:]
                )
            else:
                whole = conditions[branch.condition]
                condition = None if whole is None else take(whole, rows)
            if branch.condition == "negative" and condition is None:
                raise ValueError(
                    "as_network: negative is None; allowed for a guider that asks for the negative "
                    "branch is the condition of each image"
                )
            function: Any = denoise if branch.model is None else branch.model
            given = () if condition is None else (condition,)
            clean = function(*in_edm(seen), *given)
            if clean.shape != seen.x.shape:
                raise ValueError(
                    f"the denoiser gave {tuple(clean.shape)} for x of {tuple(seen.x.shape)}; "
                    "allowed is the same shape"
                )
            answers[branch] = Prediction(take(q.x, rows), clean.to(q.x.dtype), CLEAN)
        return answers

    return network


def in_edm(q: Query) -> tuple[Tensor, float]:
    """``(x, sigma)`` on EDM's scale, ``x = x0 + sigma * noise``, of what a network sees."""
    level = q.step.level
    alpha = max(level.alpha, level.std / TOP)
    return q.x / alpha, level.std / alpha
