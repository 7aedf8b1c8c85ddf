"""Methods exchanged on one object."""

import pytest
import torch
from guiders.pipelines.patch.class_swap import restore, swap


def double(original, module, x):
    return 2 * original(module, x)


def test_a_network_has_its_own_class_while_its_own_method_is_called():
    seen = []

    class Network(torch.nn.Module):
        def forward(self, x):
            seen.append(type(self))
            if x.isnan().any():
                raise ValueError("not a number")
            return x

    network = Network()
    swap(network, {"__call__": double})
    swap(network, {"__call__": double})
    assert network(torch.ones(1)) == 4
    with pytest.raises(ValueError, match="not a number"):
        network(torch.tensor([torch.nan]))
    assert network(torch.ones(1)) == 4  # also after an error
    restore(network)
    restore(network)
    assert type(network) is Network
    assert seen == [Network] * 3


def test_a_network_compiled_in_place_is_compiled_once():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.weight * x

    network = Network()
    network.compile(backend=backend)
    for _ in range(3):
        swap(network, {"__call__": double})
        network(torch.ones(2))
        restore(network)
    assert len(compiled) == 1
