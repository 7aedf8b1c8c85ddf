"""Guiders on a simulated device: the same numbers, nothing left on the host, and no waits.

The device is the CPU underneath (``device.py``), so that results are those of the CPU.
"""

import copy
import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import device
import pytest
import tiny
import torch
import zoo
from errors import error
from every_guider import WITHOUT, every_guider
from guiders import (
    APG,
    CFG,
    SADA,
    Adaptive,
    CFGZeroStar,
    PerturbedAttention,
    SmoothedAttention,
    WeakModel,
    ZeroInit,
    guided,
)
from guiders.guidance import METHODS, Config, Negative, Reference, Term
from torch.utils._pytree import tree_map

pytestmark = pytest.mark.skipif(
    not device.WORKS, reason=f"the simulated device was tried with torch {device.OLDEST} and later"
)
PROMPTS = ("red heart", "blue car")
STEPS = 4


def weak(pipe):
    network = copy.deepcopy(pipe.unet)
    for parameter in network.parameters():
        parameter.data.mul_(0.9)
    return network


@pytest.fixture(scope="module")
def guiders():
    """``guiders(network)``: every guider, with this network for autoguidance."""
    with guided(pipe := tiny.sd("euler"), CFG(4), quiet=True) as run:
        tiny.run(pipe, steps=STEPS)
    sigma = [record.sigma for record in run.records]
    return lambda network: every_guider(PROMPTS, network, sigma)


def draw(pipe, guider, steps=STEPS, **options):
    with guided(pipe, guider, quiet=True, **options):
        return tiny.run(pipe, steps=steps)


def parts(value):
    """The classes of a guider and of all that it is made of."""
    if isinstance(value, (list, tuple)):
        return set().union(*map(parts, value))
    if not isinstance(value, Config):
        return set()
    fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return {type(value).__name__}.union(*map(parts, fields))


def test_every_method_is_tried(guiders):
    found = parts(list(guiders(lambda *_: None).values()))
    assert METHODS.keys() - found == WITHOUT


NAMES = list(every_guider(PROMPTS, "weak", [1.0]))
GRADIENTS = ("classifier guidance", "a reward through the network", "a reward through x0")
FRESH = "GUIDERS_TEST_IN_A_FRESH_PROCESS"


def run_in_a_fresh_process(test):
    """A test that has to pass there: autograd knows the devices that existed when its first thread
    began, so where any test went backward before, this one's device came too late."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", test.nodeid],
        cwd=test.config.rootpath, env=environment | {FRESH: "1"}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr  # where no test ran it is 5


@pytest.mark.parametrize("name", NAMES)
def test_on_the_device_as_on_the_cpu(name, guiders, request):
    if name in GRADIENTS and FRESH not in os.environ:
        run_in_a_fresh_process(request.node)
        return
    with device.simulated():
        pass  # it is there before the first gradient
    pipe = tiny.sd("euler")
    here = draw(pipe, guiders(weak(pipe))[name])
    with device.simulated():
        there = draw(pipe.to("gpu"), guiders(weak(pipe))[name])
        assert there.device.type == "gpu"
        assert error(there.cpu(), here) < 1e-5


@pytest.mark.parametrize("options", [{"diagnose": True}, {"skip": SADA()}], ids=str)
def test_options_on_the_device_as_on_the_cpu(options):
    pipe = tiny.sd("euler")
    here = draw(pipe, APG(4), steps=8, **options)
    with device.simulated():
        assert error(draw(pipe.to("gpu"), APG(4), steps=8, **options).cpu(), here) < 1e-5


class There:
    """A pipeline on the device, called with tensors that are made on the host."""

    def __init__(self, pipe):
        self.pipe = pipe.to("gpu")

    def __call__(self, *args, **kwargs):
        move = lambda leaf: leaf.to("gpu") if isinstance(leaf, torch.Tensor) else leaf  # noqa: E731
        return self.pipe(*tree_map(move, args), **tree_map(move, kwargs))

    def __getattr__(self, name):
        return getattr(self.pipe, name)


@pytest.mark.parametrize(
    ("name", "guider"),
    [
        ("sd3", CFGZeroStar(4) | ZeroInit()),
        ("sd-controlnet", CFG(Adaptive(4, threshold=0.9))),
        ("flux", APG([1, 6])),
        ("flux", CFG(3, reference=PerturbedAttention())),
        ("flux", CFG(3, reference=SmoothedAttention(blur=1.0))),
        ("wan", CFG(4)),
    ],
    ids=str,
)
def test_pipelines_of_other_kinds(name, guider):
    with guided(pipe := zoo.build(name), guider, quiet=True):
        here = zoo.run(name, pipe)
    with device.simulated(), guided((there := There(zoo.build(name))).pipe, guider, quiet=True):
        assert error(zoo.run(name, there).cpu(), here) < 1e-5


@dataclass(frozen=True)
class Budget:
    """At most so many waits a step."""

    make: Any  # from a weak network to a guider
    waits: float
    options: tuple[str, ...] = ()


BUDGETS = {
    "no guider": Budget(lambda _: None, 0),
    "CFG": Budget(lambda _: CFG(4), 0),
    "APG": Budget(lambda _: APG(4), 0),
    "PAG": Budget(lambda _: CFG(4, reference=PerturbedAttention()), 0),
    "autoguidance": Budget(lambda net: CFG(2, reference=WeakModel(net)), 0),
    "diagnosis": Budget(lambda _: CFG(4), 0, ("diagnose",)),
    "Adaptive": Budget(lambda _: CFG(Adaptive(4, threshold=1)), 1),
}


def waits_a_step(pipe, guider, on, **options):
    """What a further step adds, once a run is on its way, by place."""
    counts = []
    for steps in (6, 10):
        on.waits.clear()
        if guider is None:
            tiny.run(pipe, steps=steps)
        else:
            draw(pipe, guider, steps, **options)
        counts.append(on.waits.copy())
    counts[1].subtract(counts[0])
    return {what: number / 4 for what, number in counts[1].items() if number}


@pytest.mark.parametrize("name", BUDGETS)
def test_waits_of_a_step(name):
    budget = BUDGETS[name]
    with device.simulated() as on:
        pipe = tiny.sd("euler").to("gpu")
        found = waits_a_step(
            pipe, budget.make(weak(pipe)), on, **dict.fromkeys(budget.options, True)
        )
    assert sum(found.values()) <= budget.waits, found


class Faulty(Term):
    """CFG at scale 2 with a fault."""

    scale: Any = 2.0
    reference: Reference = Negative()


@dataclass(frozen=True)
class OnTheHost(Faulty):
    def delta(self, q, positive, reference, scale, state):
        return torch.ones(q.x.shape[1:]) * (positive - reference).tensor()


@dataclass(frozen=True)
class Looks(Faulty):
    def delta(self, q, positive, reference, scale, state):
        gap = (positive - reference).tensor()
        return gap * min(1.0, gap.abs().max().item())


@dataclass(frozen=True)
class Masks(Faulty):
    def delta(self, q, positive, reference, scale, state):
        gap = (positive - reference).tensor()
        return gap + 0 * (gap > 0).nonzero().shape[0]


@dataclass(frozen=True)
class Hasty(Faulty):
    def delta(self, q, positive, reference, scale, state):
        gap = (positive - reference).tensor()
        return gap * gap.abs().max().to("cpu", non_blocking=True).clamp(max=1)


@dataclass(frozen=True)
class Fine(Faulty):
    def delta(self, q, positive, reference, scale, state):
        return positive - reference


def test_a_tensor_that_a_step_makes_on_the_host_is_refused():
    with device.simulated(), pytest.raises(device.MixedError, match="mul on the device"):
        draw(tiny.sd("euler").to("gpu"), OnTheHost())


def test_a_copy_that_is_read_too_early_is_refused():
    with device.simulated(), pytest.raises(device.RaceError, match=r"test_device.py:\d+"):
        draw(tiny.sd("euler").to("gpu"), Hasty())


@pytest.mark.parametrize(
    ("fault", "what"),
    [(Looks(), "_local_scalar_dense"), (Masks(), "nonzero")],
    ids=["item", "mask"],
)
def test_a_hidden_wait_is_found(fault, what):
    with device.simulated() as on:
        pipe = tiny.sd("euler").to("gpu")
        found = waits_a_step(pipe, fault, on)
        without = waits_a_step(pipe, Fine(), on)
    (where,) = found.keys() - without.keys()
    assert where[0] == what
    assert where[1].startswith("tests/pipelines/test_device.py:")
    assert found[where] == 1


def test_what_waits_and_what_does_not():
    with device.simulated() as on:
        x = torch.randn(3, 3).to("gpu")
        event = torch.get_device_module("gpu").Event()

        def waits(function):
            on.waits.clear()
            function()
            return sum(on.waits.values())

        assert [waits(lambda f=f: f(x)) for f in (torch.relu, torch.sum, torch.zeros_like)] == [
            0
        ] * 3
        for function in (torch.nonzero, torch.Tensor.cpu, torch.Tensor.tolist):
            assert waits(lambda f=function: f(x)) == 1
        assert waits(lambda: bool(x.isfinite().all())) == 1
        assert waits(lambda: x[x > 0]) == 1
        assert waits(lambda: x[[0, 2]]) == 1
        assert waits(lambda: x[0:2]) == 0
        assert x[[]].shape == (0, 3)
        assert waits(lambda: torch.tensor([1.0, 2.0], device="gpu")) == 1
        assert waits(lambda: torch.full((2,), 1.0, device="gpu")) == 0
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()

        # A decision one step old: the copy travels while the device works.
        copy_ = x.to("cpu", non_blocking=True)
        event.record()
        assert waits(event.synchronize) == 1
        event.record()
        x @ x
        assert waits(event.synchronize) == 0
        assert copy_.tolist() == x.held.tolist()
