"""A pipeline's loop written out, against which methods are held."""

import tiny
import torch
from guiders import read_level
from guiders.samplers import readout_at, solver_stage

PROMPTS = ("red heart", "blue car", "cat", "green apple")


def classify(x0):
    """A classifier of latents over the four prompts, which changes its mind."""
    weights = torch.randn(4, x0[0].numel(), generator=torch.Generator().manual_seed(3))
    return (
        40
        * torch.nn.functional.normalize(x0.flatten(1).to(weights.dtype), dim=1)
        @ (torch.nn.functional.normalize(weights, dim=1).T)
    )


class ByHand:
    """A pipeline's loop written out: ``rule(c, u, x, level, ask)`` answers with the guided x0.

    ``c`` and ``u`` are clean images; ``ask(prompt embeddings, network)`` evaluates another branch.
    """

    def __init__(self, pipe, weak=None):
        self.pipe, self.weak = pipe, weak
        with torch.no_grad():
            self.embeds = {text: pipe.encode_prompt(text, "cpu", 1, False)[0] for text in
                           (*PROMPTS, "")}  # fmt: skip

    @torch.no_grad()
    def run(self, rule, steps=6):
        scheduler, x = self.pipe.scheduler, tiny.latents(2)
        scheduler.set_timesteps(steps)
        x = x * scheduler.init_noise_sigma
        first = None
        for count, t in enumerate(scheduler.timesteps):
            seen = scheduler.scale_model_input(x, t)
            level = read_level(scheduler, t).level
            readout = readout_at(scheduler, level)

            def ask(texts, network=None, seen=seen, t=t, readout=readout):
                embeds = torch.cat([self.embeds[text] for text in texts])
                unet = self.pipe.unet if network is None else network
                return readout.x0(seen, unet(seen, t, embeds, return_dict=False)[0])

            if solver_stage(scheduler, count) == 0:
                first = level
            x0 = rule(ask, first, level)
            output = (x0 - readout.skip * seen) / readout.gain
            x = scheduler.step(output, t, x, return_dict=False)[0]
        return x


SOLVERS = ["ddim", "heun", "dpm++"]
