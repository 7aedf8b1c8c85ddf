"""Guiders on Diffusers pipelines, and the command line."""

from typing import Any

from .attach.attachment import Attachment
from .attach.call import Call
from .attach.guided import guided

__all__ = ["Attachment", "Call", "DiffusersRule", "guided", "to_diffusers"]


def __getattr__(name: str) -> Any:
    """What imports much of Diffusers, only where it is asked for."""
    if name in ("DiffusersRule", "to_diffusers"):
        from .attach import diffusers_guiders

        return getattr(diffusers_guiders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
