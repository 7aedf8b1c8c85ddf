"""What a call asks for that has no effect beside a guider, or another one than is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...guidance import Constant, Gate, Guider, PerImage, Record, Term
from ...samplers import is_first_order
from ..patch.parts import DENOISERS, parts_of
from .call import title


def warnings_of(
    pipe: Any, asked: Mapping[str, Any], guiders: Sequence[Guider], negative: bool, doubled: bool
) -> list[str]:
    """What to warn of when a run begins.

    Args:
        asked: the arguments of the pipeline's call.
        guiders: one, or one for each prompt or image.
        negative: does anybody ask for the negative branch?
        doubled: does the pipeline evaluate it?
    """
    found = []
    if own_rescale := getattr(pipe, "guidance_rescale", 0):
        found.append(
            f"guidance_rescale={own_rescale:g} of the pipeline is ignored while a guider is "
            "attached; use `guider | Rescale(phi)`"
        )
    text, embeds = asked.get("negative_prompt"), asked.get("negative_prompt_embeds")
    given = ["negative_prompt"] if text and any(text) else []
    given += ["negative_prompt_embeds"] if embeds is not None else []
    if given and not negative:
        who = title(guiders)
        found.append(f"{given[0]} has no effect: {who} never asks for the negative branch")
    for term in (term for guider in guiders for term in guider.terms):
        first_order = term.first_order or _innermost_scale(term).first_order
        if first_order and not is_first_order(pipe.scheduler):
            found.append(
                f"{term} is meant for solvers of first order, such as DDIM, Euler or DPM-Solver++ "
                f"with solver_order=1; {type(pipe.scheduler).__name__} corrects its steps"
            )
    if not doubled and _is_distilled(pipe) and asked.get("guidance_scale") is not None:
        found.append(
            f"guidance_scale={asked['guidance_scale']:g} goes into the network, which was "
            "distilled with it, and acts beside the guider"
        )
    return found


def why_no_negative(pipe: Any, asked: Mapping[str, Any], needs: str) -> str:
    """Why there is no negative branch, where somebody ``needs`` it."""
    name = type(pipe).__name__
    if "true_cfg_scale" in asked:
        given = "is not given" if asked.get("negative_prompt") is None else "is given"
        return (
            f"{name}: true_cfg_scale is {asked['true_cfg_scale']:g} and negative_prompt {given}, "
            f"which switches off the negative branch that {needs}; allowed is any true_cfg_scale "
            "above 1 with a negative_prompt, which may be ' ' (the guider's own scale is used)"
        )
    if _is_distilled(pipe):
        return (
            f"{name}: this model's guidance is distilled into it; allowed is a guider that needs "
            "no negative branch"
        )
    return (
        f"{name}: guidance_scale is {asked.get('guidance_scale', 1):g}, which switches off the "
        f"negative branch that {needs}; allowed is any guidance_scale above 1 (the guider's own "
        "scale is used)"
    )


def never_guided(terms: Sequence[Term], records: Sequence[Record]) -> str:
    """What to warn of after a run in which no image was guided; "" where that was asked for."""
    if any(len(record.skipped) < len(record.evaluations) for record in records):
        return ""
    if all(map(_is_off, terms)):
        return ""
    return (
        f"guided no image at any step (sigma went from {records[0].sigma:.4g} to "
        f"{records[-1].sigma:.4g})"
    )


def _is_distilled(pipe: Any) -> bool:
    """Is guidance distilled into the network, so that it takes the scale as an input?"""
    networks = [part for name, part in parts_of(pipe).items() if name in DENOISERS]
    configs = [getattr(network, "config", {}) for network in networks]
    return any(c.get("guidance_embeds") or c.get("time_cond_proj_dim") is not None for c in configs)


def _innermost_scale(term: Term) -> Any:
    """A term's scale without the gates around it."""
    scale: Any = term.when
    while isinstance(scale, Gate):
        scale = scale.scale
    return scale


def _is_off(term: Term) -> bool:
    """Was it told to do nothing, by a scale that is off at every step?"""
    scale = _innermost_scale(term)
    if isinstance(scale, PerImage):
        return all(value == term.off for value in scale.scales)
    return isinstance(scale, Constant) and scale.scale == term.off
