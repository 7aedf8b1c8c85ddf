"""What a killed run goes on from, and what makes a run the one that its folder holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...guidance.engine.files import reason_of, write_torch
from ..patch.parts import DENOISERS, parts_of
from ..rewards.check import Reward
from .settings import AlignSettings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FREE = ("max_steps", "save_every", "eval_every", "checkpointing")


class Checkpoint:
    """``checkpoint.pt`` and ``settings.json`` of a run; whole files or none.

    Args:
        out: the run's folder.
        settings: of the run.
        identity: what else makes it this run, see ``identity_of``.
        writes: does this process write the files?
    """

    def __init__(
        self, out: Path, settings: AlignSettings, identity: dict[str, str], writes: bool
    ) -> None:
        self.out, self.settings, self.identity, self.writes = out, settings, identity, writes
        self.path, self.stored = out / "checkpoint.pt", out / "settings.json"

    def load(self) -> dict[str, Any] | None:
        """The state of the run so far, and its folder; ``None`` where it begins.

        Raises:
            ValueError: the folder holds another run, or a file that cannot be read.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        state = self._read() if self.path.exists() else None
        if self.writes:
            self.settings.save(self.stored)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write the state of the run."""
        if self.writes:
            write_torch(self.path, {**state, "run": self.identity})

    def _read(self) -> dict[str, Any]:
        old, new = AlignSettings.load(self.stored).to_dict(), self.settings.to_dict()
        for name in new:
            if name not in FREE and old[name] != new[name]:
                raise ValueError(
                    f"{name} is {new[name]!r}, and the run in {self.out} began with {old[name]!r}; "
                    f"allowed to change are {', '.join(FREE)}; or take another folder"
                )
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged file makes torch raise is of many kinds
            raise ValueError(
                f"{self.path} cannot be read ({reason_of(error)}); allowed is a whole checkpoint, "
                "or another folder to begin anew"
            ) from None
        for name, value in self.identity.items():
            began = state.get("run", {}).get(name, value)
            if began != value:
                raise ValueError(
                    f"{name} is {value!r}, and the run in {self.out} began with {began!r}; allowed "
                    "is the same, or another folder"
                )
        return state


def identity_of(
    pipe: DiffusionPipeline, reward: Reward, prompts: Sequence[str], unseen: Sequence[str]
) -> dict[str, str]:
    """What makes a run this one, besides its settings."""

    def digest(value: object) -> str:
        return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]

    parts = parts_of(pipe)
    network = next(parts[name] for name in DENOISERS if name in parts)
    config = {
        name: value
        for name, value in dict(network.config).items()
        if not name.startswith("_") and isinstance(value, (str, int, float, list, tuple))
    }
    return {
        "reward": getattr(reward, "text", getattr(reward, "__name__", type(reward).__name__)),
        "prompts": digest(prompts),
        "unseen prompts": digest(unseen),
        "model": f"{type(network).__name__} {digest(config)}",
        "scheduler": type(parts["scheduler"]).__name__,
    }
