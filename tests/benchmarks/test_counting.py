"""Operations, bytes and calls, counted where they are known."""

import pytest
import torch
from counting import Calls, Counts, Operations, Steps, a_step
from guiders import CFG
from guiders.guidance import Level, Readout

pytestmark = pytest.mark.quick
SIZE = 4 * 64 * 64
MEMORY = 4 * SIZE  # bytes of such a tensor


def counts(function):
    x, y = torch.ones(1, 4, 64, 64), torch.ones(1, 4, 64, 64)
    with Operations(SIZE) as operations:
        function(x, y)
    return operations.counts


@pytest.mark.parametrize(
    ("function", "operations", "tensors"),
    [
        (lambda x, y: x + y, 1, 3),
        (lambda x, y: y + 7.5 * (x - y), 3, 8),
        (lambda x, y: x.mul_(2), 1, 2),
        (lambda x, y: x.copy_(y), 1, 2),
        (lambda x, y: x.zero_(), 1, 1),
        (lambda x, y: torch.cat([x, y]), 1, 4),
        (lambda x, y: x.flatten(1).view(4, -1)[:, ::2].T, 0, 0),
        (lambda x, y: torch.empty_like(x), 0, 0),
        (lambda x, y: x[0, 0, 0, 0] + 1, 0, 0),
        (lambda x, y: torch.ones(100) * 3, 0, 0),
        (lambda x, y: x[:, :2] + 1, 0.5, 0.5),  # the result is a small tensor
        (lambda x, y: [x[:, i].add_(y[:, i]) for i in range(4)], 1, 3),
    ],
)  # fmt: skip
def test_operations_and_bytes(function, operations, tensors):
    found = counts(function)
    assert found.operations == operations
    assert found.bytes == pytest.approx(tensors * MEMORY, abs=1)
    assert found.doubles == 0


def test_float64_is_counted_beside():
    found = counts(lambda x, y: (x.double() * 2).sum())
    assert (found.operations, found.doubles) == (3, 3)


def test_sums_alone_are_operations_on_what_they_read():
    assert counts(lambda x, y: x.sum()).bytes == MEMORY


def test_calls_of_this_librarys_functions_alone():
    readout = Readout(0.5, 2.0)
    x = torch.ones(1, 2)
    with Calls() as calls:
        for _ in range(3):
            readout.x0(x, x)
        torch.nn.Linear(2, 2)(x)
    assert calls.files.keys() <= {"guidance/engine/levels.py", "guidance/engine/tensors.py"}
    assert calls.files["guidance/engine/levels.py"] == 3
    with Calls() as calls:
        str(CFG(3)), Level(1.0, 2.0).edm
    assert calls.files["guidance/engine/levels.py"] == 1


def test_what_is_done_between_steps_belongs_to_none():
    clock = [0]

    def tick(by):
        clock[0] += by

    steps = Steps(lambda: clock[0], lambda: tick(100))
    for duration in (5, 1, 2, 3):
        tick(duration)
        steps(None, 0, None, {})
    assert steps.differences() == [1, 2, 3]


def test_what_is_done_at_every_eighth_step_counts():
    steps = [Counts(operations=10.0 if index % 8 == 3 else 2.0) for index in range(25)]
    assert a_step(steps).operations == 3
    with pytest.raises(ValueError, match="18 steps"):
        a_step(steps[:10])
