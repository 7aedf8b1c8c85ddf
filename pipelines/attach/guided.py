"""Attach a guider to a stock Diffusers pipeline: ``with guided(pipe, guider) as run:``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...guidance import Guider, Profile, intents
from ...guidance.engine.config import reject
from ...samplers import SADA, is_supported, read_level
from ..patch.parts import DENOISERS, parts_of
from .attachment import Attachment, Options
from .call import title
from .layouts import check_dtype


def guided(
    pipe: Any,
    guider: Guider | Sequence[Guider],
    *,
    quiet: bool = False,
    diagnose: bool = False,
    cosines: bool = False,
    gradients: bool = False,
    skip: SADA | None = None,
    profile: Profile | str | Path | None = None,
) -> Attachment:
    """Sample ``pipe`` with ``guider`` inside the ``with``.

    The guider's scale wins; the pipeline's own ``guidance_scale`` only switches its negative branch
    on or off. Afterwards the pipeline is as it was, also after an exception.

    The pipeline belongs to the thread of the ``with`` meanwhile: a call from another one, of it or
    of another pipeline that shares its denoiser or its scheduler, is an error.

    Args:
        pipe: a Diffusers pipeline, see the list in the documentation. One of a class that is not
            listed is inferred from its first evaluation, or refused there.
        guider: one guider, or a list with one for each prompt (or image) of a batch.
        quiet: do not print the plan line.
        diagnose: evaluate the negative branch at every step, whether the guider asks or not, and
            put a ``Diagnosis`` into each record; what only that needs is not counted.
        cosines: put the cosine of both predictions into each record, which takes a few operations
            more; where a scale looks at it, as ``Adaptive`` does, and with ``diagnose``, it is
            there anyway.
        gradients: let them flow through the pipeline's call, which Diffusers runs without; ask it
            for ``output_type="pt"`` or ``"latent"``.
        skip: leave out whole evaluations, see ``SADA``.
        profile: of this pipeline, or the path of its file, by which a guider's intent becomes
            numbers when a run begins; the shipped ones are found without it.

    Returns:
        The ``Attachment``, for a ``with``: evaluations and records of each call.

    Raises:
        ValueError: the pipeline or its scheduler is not supported, ``guider`` is not a guider, or
            it has an intent for which there is no profile.
        RuntimeError: a guider is attached already; a call came from another thread.
    """
    if isinstance(pipe, Guider) and not isinstance(guider, Guider):
        raise ValueError(
            f"guided({type(pipe).__name__}, {type(guider).__name__}): the pipeline comes first; "
            "write guided(pipe, guider)"
        )
    single = not isinstance(guider, (list, tuple))
    several: list[Any] = list(guider) if isinstance(guider, (list, tuple)) else [guider]
    if not several or not all(isinstance(one, Guider) for one in several):
        raise reject("guided", "guider", guider, "a Guider such as CFG(7.5), or a list of them")
    if skip is not None and not isinstance(skip, SADA):
        raise ValueError(f"skip: expected SADA() or None, got {skip!r}")
    if isinstance(profile, (str, Path)):
        profile = Profile.load(profile)
    if profile is not None and not isinstance(profile, Profile):
        raise ValueError(f"profile is {profile!r}; allowed is a Profile, or the path of its file")
    if profile is not None and not intents(several):
        warnings.warn(f"profile has no effect: {title(several)} leaves nothing to it", stacklevel=3)
    parts = parts_of(pipe)
    if not is_supported(parts["scheduler"]):
        read_level(parts["scheduler"], 0)  # raises, with the list of what is supported
    for network in (part for name, part in parts.items() if name in DENOISERS):
        check_dtype(pipe, getattr(network, "dtype", torch.float32))
    options = Options(single, quiet, diagnose, cosines, gradients, skip, profile)
    return Attachment(pipe, several, options)
