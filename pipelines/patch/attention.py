"""Self-attention that is perturbed in some blocks of a network: PAG and SEG on real modules.

The product is intercepted where every attention of Diffusers ends up, in PyTorch's
``scaled_dot_product_attention``, and only inside the chosen modules. Which tokens are the picture's
is seen from what block and module are called with.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...guidance import PerturbedAttention, SmoothedAttention
from .call_arguments import Inputs
from .class_swap import class_of, restore, swap
from .joint_blocks import order_of
from .layers import attentions, is_unet

# Blocks that are given one sequence, in which every row has as much text.
ONE_SEQUENCE = ("AuraFlowSingle", "ChromaSingle", "Flux2Single")


@dataclass(frozen=True)
class Sight:
    """What an attention sees: the whole of its tokens is the picture's and the text's."""

    picture: int
    text: int = 0
    first: bool = True  # does the picture come first?

    @property
    def rows(self) -> slice:
        start = 0 if self.first else self.text
        return slice(start, start + self.picture)


class Product(TorchFunctionMode):
    """The attention's product, perturbed where queries and keys are the same tokens."""

    def __init__(self, answer: Callable[..., Tensor], look: Callable[[int], Sight | None]) -> None:
        super().__init__()
        self.answer, self.look, self.count = answer, look, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        query, key = given["query"], given["key"]
        sight = self.look(query.shape[-2]) if query.shape[-2] == key.shape[-2] else None
        if sight is None:
            return func(**given)
        self.count += 1
        return self.answer(given, sight)


def identity(given: dict[str, Any], sight: Sight) -> Tensor:
    """Each of the picture's tokens sees itself and the text."""
    query, value = given["query"], given["value"]
    if not sight.text:
        return value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
    total = query.shape[-2]
    allowed = torch.ones(total, total, dtype=torch.bool, device=query.device)
    allowed[sight.rows, sight.rows] = torch.eye(
        sight.picture, dtype=torch.bool, device=query.device
    )
    mask = given.get("attn_mask")
    if mask is None:
        mask = allowed
    elif mask.dtype == torch.bool:
        mask = mask & allowed
    else:
        mask = mask.masked_fill(~allowed, -math.inf)
    return F.scaled_dot_product_attention(**{**given, "attn_mask": mask})


def linear_identity(module: Any, given: dict[str, Any]) -> Tensor:
    """The same for linear attention (Sana), which has no map."""
    out = module.to_v(hidden_of(given))
    for layer in module.to_out:
        out = layer(out)
    return out


def _is_linear(module: Any) -> bool:
    return type(module.processor).__name__.startswith("SanaLinear")


def smooth(given: dict[str, Any], sight: Sight, grid: tuple[int, int, int], sigma: Any) -> Tensor:
    """The picture's queries blurred over ``grid``, frames x height x width."""
    query = given["query"].clone()
    query[..., sight.rows, :] = blurred(query[..., sight.rows, :], grid, sigma)
    return F.scaled_dot_product_attention(**{**given, "query": query})


def blurred(query: Tensor, grid: tuple[int, int, int], sigma: float | None) -> Tensor:
    """Queries (..., frames * height * width, channels), blurred in each frame.

    Args:
        sigma: of the Gaussian, in tokens; ``None`` is infinite, the mean.
    """
    image = query.unflatten(-2, grid).float()
    if sigma is None:
        image = image.mean((-3, -2), keepdim=True).expand_as(image)
    else:
        down, across = (_blur_on(size, sigma, image.device) for size in grid[1:])
        image = torch.einsum("ij,...jkc,lk->...ilc", down, image, across)
    return image.flatten(-4, -2).to(query.dtype)


@functools.lru_cache(maxsize=64)
def _blur_on(size: int, sigma: float, device: torch.device) -> Tensor:
    """Made once: a copy to a device makes the host wait."""
    with torch.inference_mode(False):
        return blur_matrix(size, sigma).to(device, torch.float32)


def blur_matrix(size: int, sigma: float) -> Tensor:
    """The matrix (size, size) of a Gaussian blur with reflected edges.

    The kernel has ``ceil(6 sigma)`` taps, or one more to be odd, as in the authors' code. It may be
    wider than the line, which is then reflected more than once.
    """
    half = math.ceil(6 * sigma) // 2
    offsets = torch.arange(-half, half + 1)
    weights = torch.exp(-0.5 * (offsets / sigma).double() ** 2)
    period = max(2 * (size - 1), 1)
    there = (torch.arange(size)[:, None] + offsets) % period
    there = torch.minimum(there, period - there) if size > 1 else torch.zeros_like(there)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, there, (weights / weights.sum()).expand(size, -1).clone())


def grid_of(network: nn.Module, inputs: Inputs, tokens: int) -> tuple[int, int, int] | None:
    """Frames, height and width of the picture's tokens; ``None`` if they cannot be found."""
    x, kwargs = inputs.x, inputs.kwargs
    if x.dim() in (4, 5):
        height, width = x.shape[-2:]
        patch = None if is_unet(network) else getattr(network.config, "patch_size", None)
        if isinstance(patch, Sequence):
            patch = patch[-1]
        for size in [patch] if patch else [2**power for power in range(10)]:
            grid = (-(-height // size), -(-width // size))
            frames, rest = divmod(tokens, math.prod(grid))
            if frames and not rest and (frames == 1 or (x.dim() == 5 and patch)):
                return (frames, *grid)
        return None
    if (positions := kwargs.get("img_ids")) is not None:
        last = positions.reshape(-1, positions.shape[-1])[:, -2:].amax(0).long() + 1
        found = (1, int(last[0]), int(last[1]))
    elif shapes := kwargs.get("img_shapes"):
        first = shapes[0][0] if isinstance(shapes[0], list) else shapes[0]
        found = tuple(int(size) for size in first)  # type: ignore[assignment]
    elif all(kwargs.get(name) for name in ("num_frames", "height", "width")):
        found = (kwargs["num_frames"], kwargs["height"], kwargs["width"])
    else:
        return None
    return found if math.prod(found) == tokens else None


def tokens_in(network: nn.Module, inputs: Inputs) -> int | None:
    """The picture's tokens in the whole network, where that is one number."""
    if (positions := inputs.kwargs.get("img_ids")) is not None:
        return int(positions.shape[-2])
    patch = getattr(network.config, "patch_size", None)
    if inputs.x.dim() == 4 and isinstance(patch, int):
        return math.prod(-(-size // patch) for size in inputs.x.shape[-2:])
    return None


@contextmanager
def perturbed_attention(
    network: nn.Module,
    change: PerturbedAttention | SmoothedAttention,
    chosen: dict[str, nn.Module],
    inputs: Inputs,
) -> Iterator[None]:
    """The network inside has the attention that ``change`` says, in the ``chosen`` modules.

    Raises:
        ValueError: the picture's tokens in them cannot be told.
        RuntimeError: the attention was computed in a way that cannot be intercepted.
    """
    told = inputs.kwargs.get("encoder_hidden_states") is not None
    counts = dict.fromkeys(chosen, 0)
    grid_of_tokens = functools.cache(lambda tokens: grid_of(network, inputs, tokens))

    def answer(given: dict[str, Any], sight: Sight) -> Tensor:
        if isinstance(change, PerturbedAttention):
            return identity(given, sight)
        grid = grid_of_tokens(sight.picture)
        if grid is None:
            raise ValueError(
                f"{type(change).__name__}: the {sight.picture} tokens in the "
                f"{type(network).__name__} are not those of one picture of known height and width; "
                "allowed is PerturbedAttention(), or other layers"
            )
        return smooth(given, sight, grid, change.blur)

    def attend(name: str, block: nn.Module | None, seen: list[tuple[int, int]]) -> Any:
        def call(original: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(change, PerturbedAttention) and _is_linear(module):
                counts[name] += 1
                return linear_identity(module, arguments(module, args, kwargs))
            hidden, text = tokens_of(module, args, kwargs)

            def look(length: int) -> Sight | None:
                outer = seen[-1] if seen else (hidden, 0)
                inside = (hidden, text) if text else outer
                if inside[1] and length == sum(inside):
                    return _joint(change, block, *inside)
                return Sight(length) if not text and length == hidden else None

            product = Product(answer, look)
            with product:
                result = original(module, *args, **kwargs)
            counts[name] += product.count
            return result

        return call

    def enter(block: nn.Module, seen: list[tuple[int, int]]) -> Any:
        def call(original: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
            hidden, text = tokens_of(module, args, kwargs)
            if told and not text:
                picture = tokens_in(network, inputs)
                kind = class_of(block).__name__
                if picture is None or not kind.startswith(ONE_SEQUENCE):
                    raise ValueError(
                        f"{type(change).__name__}: text and picture share one sequence in a "
                        f"{kind}, where they cannot be told apart; allowed are other layers, or "
                        "SkipLayers()"
                    )
                hidden, text = picture, hidden - picture
            seen[:] = [(hidden, text)]
            return original(module, *args, **kwargs)

        return call

    with ExitStack() as stack:
        for name, unit in chosen.items():
            seen: list[tuple[int, int]] = []
            parts = {"": unit} if is_unet(network) else attentions(unit)
            block = None if is_unet(network) else unit
            if block is not None:
                _exchange(stack, block, enter(block, seen))
            for part in parts.values():
                _exchange(stack, part, attend(name, block, seen))
        yield
    for name, count in counts.items():
        if not count:
            raise RuntimeError(
                f"{type(change).__name__}: the self-attention of {name} in the "
                f"{type(network).__name__} is not computed by PyTorch's scaled dot product over "
                "the picture's tokens (attention slicing, xFormers, another backend, or linear "
                "attention); allowed is the default attention processor and backend"
            )


def _exchange(stack: ExitStack, module: nn.Module, call: Any) -> None:
    swap(module, {"__call__": call})
    stack.callback(restore, module)


def _joint(change: Any, block: nn.Module | None, picture: int, text: int) -> Sight:
    kind = None if block is None else class_of(block)
    if first := order_of(kind).tokens:
        return Sight(picture, text, first=first == "picture")
    raise ValueError(
        f"{type(change).__name__}: whether the picture's tokens come first is not known for a "
        f"{kind.__name__ if kind else 'U-Net'}; allowed are layers of another kind, or SkipLayers()"
    )


def tokens_of(module: nn.Module, args: Any, kwargs: Any) -> tuple[int, int]:
    """How many tokens a block or an attention is called with, of the picture and of the text."""
    given = arguments(module, args, kwargs)
    hidden, text = hidden_of(given), given.get("encoder_hidden_states")
    if text is hidden:
        text = None
    spatial = hidden.dim() == 4 and hasattr(module, "processor")  # (B, C, H, W)
    count = math.prod(hidden.shape[-2:]) if spatial else hidden.shape[-2]
    return count, text.shape[-2] if isinstance(text, Tensor) else 0


def arguments(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """What a module is called with, by name."""
    bound = _signature(class_of(module)).bind(module, *args, **kwargs)
    return dict(list(bound.arguments.items())[1:])


@functools.lru_cache(maxsize=256)
def _signature(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)


def hidden_of(given: dict[str, Any]) -> Tensor:
    return given["hidden_states"] if "hidden_states" in given else next(iter(given.values()))
