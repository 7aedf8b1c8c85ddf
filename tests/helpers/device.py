"""A device that is the CPU underneath: real numbers, and what CUDA would wait for or refuse.

``with simulated() as device:`` gives a device ``gpu`` on which whole pipelines run. Its tensors are
wrappers around tensors of the CPU. Three things are seen:

- *waits*: what makes the host wait for the device, by kind and place: ``item()``, ``tolist()``,
  ``bool()``, ``nonzero()``, masks as indices, and copies between host and device that block.
- *mixing*: tensors of the host beside those of the device are refused where CUDA refuses them.
- *races*: what was copied to the host with ``non_blocking`` is refused until its event is over.

``torch.get_device_module("gpu")`` has events and streams as ``torch.cuda`` has. Waiting for an
event is free if the device was given a matrix product or a convolution since: it has work then.

It stands on an interface of torch that is young and may change: ``WORKS`` says whether it is there.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from guiders import guidance, pipelines, samplers
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
OLDEST = (2, 13)  # with which this was tried
WORKS = VERSION >= OLDEST and hasattr(
    backend_registration, "_setup_privateuseone_for_python_backend"
)
NAME = "gpu"
OURS = [Path(part.__file__).resolve().parent for part in (guidance, pipelines, samplers)]
OURS.append(Path(__file__).resolve().parents[1])  # the tests

COPIES = {"_to_copy", "copy_", "copy"}
WORK = {
    "convolution", "addmm", "mm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math", "scaled_dot_product_attention",
}  # fmt: skip
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "_linalg_eigh", "_linalg_svd", "linalg_lstsq",
}  # fmt: skip
NO_SCALARS = {"cat", "stack", "index_select", "index_copy", "gather", "mm", "addmm", "bmm",
              "convolution"}  # fmt: skip


class MixedError(RuntimeError):
    """A tensor of the host where CUDA allows only those of the device."""


class RaceError(RuntimeError):
    """A copy that need not have arrived was read."""


class Device:
    """What happened on the device.

    Attributes:
        waits: how often the host waited, by (what, where): the line that asked for it, of this
            library, of a test, or of another library.
        work: matrix products and convolutions so far.
    """

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.work = 0
        self._travelling: dict[int, Tensor] = {}  # copies on the way to the host, by storage

    def wait(self, what: str) -> None:
        self.waits[what, place()] += 1

    def arrive(self, copies: Sequence[int] | None = None) -> None:
        """These copies are on the host now, by default all."""
        for key in list(self._travelling) if copies is None else copies:
            self._travelling.pop(key, None)

    @property
    def travelling(self) -> list[int]:
        return list(self._travelling)

    def send(self, copy: Tensor) -> None:
        self._travelling[copy.untyped_storage().data_ptr()] = copy

    def read(self, host: Tensor) -> None:
        """Something of the host looks at a tensor of the host.

        Raises:
            RaceError: it need not have arrived.
        """
        if self._travelling and host.untyped_storage().data_ptr() in self._travelling:
            raise RaceError(
                f"expected an event to be waited for before a non_blocking copy is read, got none "
                f"({place()})"
            )


_current: Device | None = None


def current() -> Device:
    assert _current is not None, "the simulated device is used outside of `with simulated()`"
    return _current


def place() -> str:
    """The line that asks: of this library, of a test, or of another library."""
    frame = sys._getframe(1)
    while frame is not None:
        if name := short(frame.f_code.co_filename):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@functools.cache
def short(filename: str) -> str:
    """How a file is called in a place; "" is none of a place."""
    path = Path(filename).resolve()
    if path == Path(__file__).resolve():
        return ""
    for root in OURS:
        if path.is_relative_to(root):
            return str(path.relative_to(root.parent))
    _, packages, name = filename.partition("site-packages/")
    return name if packages and not name.startswith("torch/") else ""


class OnDevice(Tensor):
    """A tensor of the device; ``held`` has its numbers, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        return Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDevice:
        return OnDevice(self.held.clone()).requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(function, args, dict(kwargs or {}))


def held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def on_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def compute(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """One operation of which something is on the device."""
    name = function.overloadpacket.__name__
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    there = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    host = [leaf for leaf in leaves if not isinstance(leaf, OnDevice)]
    for leaf in host:
        current().read(leaf)
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs["device"] = torch.device(torch.device(wanted).type.replace(NAME, "cpu"))
    result_there = bool(there) if wanted is None else on_device(wanted)
    if name in COPIES:
        to = args[0] if name == "copy_" else None
        source = args[0] if to is None else args[1]
        result_there = isinstance(to, OnDevice) if to is not None else result_there
        return _copy(function, name, source, result_there, args, kwargs)
    if there and host:
        _check_host(name, args, host)
    generator = kwargs.get("generator")
    if generator is not None and result_there:
        raise MixedError(f"expected a generator of the device for {name}, got one of the CPU")
    if name in WAITING or (name.startswith("index") and _has_mask(args)):
        current().wait(name)
    current().work += name in WORK
    if name == "_local_scalar_dense":
        return function(held(args[0]))
    result = function(*tree_map(held, args), **tree_map(held, kwargs))
    return _wrapped(result, there) if result_there else result


def _check_host(name: str, args: Sequence[Any], host: Sequence[Tensor]) -> None:
    """May these tensors of the host stand beside tensors of the device?"""
    shapes = [tuple(leaf.shape) for leaf in host if leaf.dim() or name in NO_SCALARS]
    if shapes and name in ("index", "index_put_", "index_put") and isinstance(args[0], OnDevice):
        # CUDA takes indices from the host, and waits until they are copied.
        values = args[2:3] if name != "index" else ()
        if not any(not isinstance(v, OnDevice) and v.dim() for v in values):
            return current().wait(f"{name} with an index of the host")
    if shapes:
        raise MixedError(
            f"expected all tensors of {name} on the device, got some of the host: {shapes}"
        )
    return None


def _has_mask(args: Sequence[Any]) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _copy(
    function: Any, name: str, source: Any, there: bool, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """A copy, within the device or across."""
    free = bool(kwargs.get("non_blocking")) or (name == "copy_" and len(args) > 2 and args[2])
    across = isinstance(source, OnDevice) != there
    result = function(*tree_map(held, args), **tree_map(held, kwargs))
    if across and not free:
        current().wait("copy to the device" if there else "copy to the host")
        current().arrive()
    if across and free and not there:
        current().send(args[0] if name == "copy_" else result)
    if name == "copy_":
        return args[0]
    return OnDevice(result) if there else result


def _wrapped(result: Any, there: Sequence[OnDevice]) -> Any:
    """On the device; what was changed in place is the tensor that was given."""
    same = {id(leaf.held): leaf for leaf in there}

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return same.get(id(leaf)) if id(leaf) in same else OnDevice(leaf)

    return tree_map(wrap, result)


class _Operations(TorchDispatchMode):
    """Makes tensors on the device, copies to it, and sees what reads copies on the host."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_flatten((args, kwargs))[0]
        if on_device(kwargs.get("device")) or any(isinstance(leaf, OnDevice) for leaf in leaves):
            return compute(function, args, kwargs)
        name = function.overloadpacket.__name__
        if not function.is_view and name not in COPIES | {"detach"}:
            for leaf in leaves:
                if isinstance(leaf, Tensor):
                    current().read(leaf)
        return function(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """What passes below operations: lists that become tensors, and tensors that become lists."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            return _made(function, args, kwargs)
        if function is Tensor.new_tensor and isinstance(args[0], OnDevice):
            like = {"dtype": args[0].dtype, "device": args[0].device}
            return _made(torch.tensor, args[1:], {**like, **kwargs})
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnDevice):
            args = (args[0], _index(args[1]), *args[2:])
        if function in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            if not isinstance(args[0], OnDevice):
                current().read(args[0])
            elif function is Tensor.tolist:
                current().wait("tolist")
                return args[0].held.tolist()
            else:
                raise TypeError("expected a tensor of the host for numpy, got one of the device")
        if function in (Tensor.pin_memory, Tensor.is_pinned) and not isinstance(args[0], OnDevice):
            return args[0] if function is Tensor.pin_memory else True
        if kwargs.get("pin_memory"):
            del kwargs["pin_memory"]
        return function(*args, **kwargs)


def _made(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """``torch.tensor`` of numbers: made on the host, then copied, which blocks."""
    there = on_device(kwargs.get("device"))
    if there:
        kwargs = {**kwargs, "device": "cpu"}
    made = function(*args, **kwargs)
    if not there:
        return made
    current().wait("numbers copied to the device")
    return made.to(torch.device(NAME), non_blocking=True)


def _index(index: Any) -> Any:
    """Lists and tensors of the host among the indices are copied to the device, which blocks."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    if isinstance(index, list):
        index = torch.as_tensor(index) if index else torch.zeros(0, dtype=torch.long)
    if isinstance(index, Tensor) and index.dim() and not isinstance(index, OnDevice):
        current().wait("an index copied to the device")
        return index.to(torch.device(NAME), non_blocking=True)
    return index


class Event:
    """As ``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self._copies: list[int] = []
        self._work = -1

    def record(self, stream: Any = None) -> None:
        self._copies, self._work = current().travelling, current().work

    def query(self) -> bool:
        over = current().work > self._work
        if over:
            current().arrive(self._copies)
        return over

    def synchronize(self) -> None:
        if current().work <= self._work:
            current().wait("an event of this moment")
        current().arrive(self._copies)

    def wait(self, stream: Any = None) -> None:
        pass


class Stream:
    """As ``torch.cuda.Stream``; there is one."""

    def synchronize(self) -> None:
        current().wait("a stream")
        current().arrive()

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record()
        return event

    def wait_event(self, event: Event) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        pass


class _Module(getattr(backend_registration, "_DummyBackendModule", object)):
    """``torch.gpu``: what libraries ask the module of a device for."""

    Event, Stream = Event, Stream

    def is_available(self) -> bool:
        return _current is not None

    def device_count(self) -> int:
        return int(self.is_available())

    def current_stream(self, device: Any = None) -> Stream:
        return Stream()

    def synchronize(self, device: Any = None) -> None:
        Stream().synchronize()

    def device(self, device: Any = None) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    stream = device

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.random.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def _lazy_init(self) -> None:
        pass


@contextlib.contextmanager
def simulated() -> Iterator[Device]:
    """The device, while inside; its tensors are not to be used outside."""
    global _current
    if not hasattr(torch, NAME):
        setup: Callable[..., None] = backend_registration._setup_privateuseone_for_python_backend
        setup(NAME, backend_module=_Module())
    before, _current = _current, Device()
    try:
        with _Operations(), _Functions():
            yield _current
    finally:
        _current = before
