"""A pipeline that is called only to see what it would do: without its bar, and stopped early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..patch.call_arguments import Inputs

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Captured(BaseException):
    """Thrown by a denoiser through the pipeline that calls it, to stop it there: no error.

    Args:
        inputs: what the denoiser was called with, if that is what is wanted.
    """

    def __init__(self, inputs: Inputs | None = None) -> None:
        super().__init__()
        self.inputs = inputs


@contextmanager
def quiet_bar(pipe: DiffusionPipeline) -> Iterator[None]:
    """The pipeline shows no progress inside, and what it showed before afterwards."""
    shown = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if shown is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = shown
