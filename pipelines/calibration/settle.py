"""A guider's intent as numbers before anything is drawn, as what is stored should have them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...guidance import CFG, Guider, Profile, Step, intents, resolve
from ..attach.guided import guided
from ..context.probe import Captured, quiet_bar
from ..generation.generate import sample
from ..generation.settings import Settings
from ..presets.find import profile_of


def settle(
    pipe: Any, job: Settings, guider: Guider, profile: Profile | str | Path | None = None
) -> Guider:
    """The guider with explicit numbers for a run of ``job``; the same one where it has them.

    Args:
        profile: of this pipeline and grid; the one that ships is found without it.

    Raises:
        ValueError: there is no profile, it is of another run, or lacks what is asked for.
    """
    if not intents(guider):
        if profile is not None:
            warnings.warn(f"profile has no effect: {guider} leaves nothing to it", stacklevel=2)
        return guider
    if profile is not None and not isinstance(profile, Profile):
        profile = Profile.load(profile)
    steps, latents = foreseen(pipe, job)
    found = profile_of(pipe, steps, guider, profile, job.negative_prompt, job.skip)
    return resolve(guider, found, steps, latents)


def foreseen(pipe: Any, job: Settings) -> tuple[list[Step], Sequence[int] | None]:
    """The evaluations of a run and the shape of one image's latents, without any of them.

    The pipeline is called and stopped at its network: timesteps may depend on the size, and only
    it knows how.
    """

    def stop(forward: Callable[..., Any]) -> Callable[..., Any]:
        raise Captured

    with suppress(Captured), quiet_bar(pipe), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with guided(pipe, CFG(1), quiet=True) as run:
            run.around = stop
            sample(pipe, [job])
    return run.last.steps, run.last.latents
