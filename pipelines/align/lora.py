"""The low-rank adapter that is trained: added, read, written, measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...guidance import AdapterOff
from ...guidance.engine.files import write_tensors
from ..generation.load import LORA
from ..patch.call_arguments import Inputs
from ..patch.parts import DENOISERS, parts_of
from ..patch.perturb import changed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ADAPTER = "align"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class Adapter:
    """LoRA (Hu et al. 2021, arXiv:2106.09685) on a pipeline's denoiser, in float32.

    Args:
        rank, alpha: the change is ``alpha / rank * B A``; A begins normal, B zero.
        target_modules: ends of the names of the layers that get one.

    Raises:
        ValueError: the pipeline has two denoisers or an adapter already, or no such layers.
        RuntimeError: peft is not installed.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        rank: int = 4,
        alpha: float = 4,
        target_modules: Sequence[str] = ATTENTION,
    ) -> None:
        try:
            from peft import LoraConfig
        except ImportError:
            raise RuntimeError(
                "peft is not installed; `pip install 'guiders[align]'` gets it"
            ) from None
        found = [name for name in DENOISERS if name in parts_of(pipe)]
        if len(found) > 1:
            raise ValueError(
                f"pipe has {len(found)} denoisers, {' and '.join(found)}; allowed is one"
            )
        self.pipe, self.name = pipe, found[0]
        self.network = getattr(pipe, self.name)
        if getattr(self.network, "peft_config", None):
            raise ValueError(
                f"pipe has the adapter {next(iter(self.network.peft_config))!r} already; allowed "
                "is none: fuse it (`pipe.fuse_lora()`, `pipe.unload_lora_weights()`), or load the "
                "pipeline anew"
            )
        config = LoraConfig(
            r=rank, lora_alpha=alpha, init_lora_weights="gaussian",
            target_modules=list(target_modules),
        )  # fmt: skip
        try:
            self.network.add_adapter(config, adapter_name=ADAPTER)
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"target_modules are {', '.join(target_modules)}; allowed are names of layers of "
                f"the {type(self.network).__name__} ({str(error).splitlines()[0]})"
            ) from None
        for parameter in self.parameters():  # small steps vanish in half precision
            parameter.data = parameter.data.float()

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for name, p in self.network.named_parameters() if "lora_" in name]

    def state(self) -> dict[str, Tensor]:
        """Copies of the parameters by name."""
        from peft.utils import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.network, adapter_name=ADAPTER)
        return {name: value.detach().clone() for name, value in state.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        from peft.utils import set_peft_model_state_dict

        set_peft_model_state_dict(self.network, state, adapter_name=ADAPTER)

    def off(self) -> AbstractContextManager[None]:
        """The network inside is the base."""
        return changed(self.network, AdapterOff((ADAPTER,)), Inputs((), {}))

    def size(self) -> Tensor:
        """The sum of ``|alpha / rank * B A|^2`` over the layers: how far it is from the base."""
        total = torch.zeros((), device=self.parameters()[0].device)
        for module in self.network.modules():
            if ADAPTER in getattr(module, "lora_A", {}):
                a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
                a, b = a.flatten(1), b.flatten(1)
                total = total + module.scaling[ADAPTER] ** 2 * ((b.T @ b) * (a @ a.T)).sum()
        return total

    def save(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors``, for ``pipe.load_lora_weights(folder)``.

        Where the pipeline has no such method, for ``load_lora_adapter`` of its denoiser.
        """
        from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY

        config = self.network.peft_config[ADAPTER].to_dict()
        config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        prefix = f"{self.name}." if hasattr(type(self.pipe), "load_lora_weights") else ""
        tensors = {f"{prefix}{k}": v.cpu().contiguous() for k, v in self.state().items()}
        config = {f"{prefix}{k}": v for k, v in config.items()}
        notes = {
            "format": "pt",
            LORA_ADAPTER_METADATA_KEY: json.dumps(config, indent=2, sort_keys=True),
        }
        write_tensors(folder / LORA, tensors, notes)
