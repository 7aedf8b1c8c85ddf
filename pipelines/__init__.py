"""Guiders on Diffusers pipelines, and the command line."""

from .guided import Attachment, Call, guided

__all__ = ["Attachment", "Call", "guided"]
