"""Networks of the zoo, called as their pipelines call them."""

import torch
import zoo
from guiders.pipelines.patch.call_arguments import Inputs
from guiders.pipelines.patch.perturb import changed


def network_of(pipe):
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer


def met(name, pipe=None, **options):
    """A network of the zoo, and what its pipeline calls it with."""
    pipe, seen = pipe or zoo.build(name), []
    network = network_of(pipe)
    handle = network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(Inputs(args, kwargs)), with_kwargs=True
    )
    zoo.run(name, pipe, steps=2, **options)
    handle.remove()
    return network, seen[0]


def said(network, inputs, change=None):
    with torch.no_grad(), changed(network, change, inputs):
        return network(*inputs.args, **inputs.kwargs)[0]
