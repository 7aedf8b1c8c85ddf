"""Training the three networks, with the exact score as the target."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixture import Mixture
from network import LogDensity
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class Recipe:
    """What a network learns, how large it is and for how long it learns."""

    classes: str
    width: int
    iterations: int


RECIPES = {
    "main": Recipe("A", 64, 4096),
    "weak": Recipe("A", 32, 512),  # smaller, trained less: the guide of autoguidance
    "both": Recipe("AB", 32, 512),  # the same without the class: the guide of CFG
}
BATCH = 4096
SHIPPED = Path(__file__).parent / "weights"


def average_power(std: float) -> float:
    """The exponent of an average with the power function of Karras et al. 2024 (arXiv:2312.02696).

    Args:
        std: the average's width, relative to the training.
    """
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(roots[np.isreal(roots)].real.max())


def learning_rate(iteration: int) -> float:
    return 1e-2 / math.sqrt(max(iteration / 512, 1))


def train(name: str, folder: Path, seed: int = 0, every: int = 256) -> LogDensity:
    """Train one of ``RECIPES``, from where ``folder`` has it; a progress bar shows the loss.

    The result is the moving average of the weights, of relative width 0.010.

    Args:
        folder: gets NAME-SEED.pt, written every so many iterations.
    """
    recipe = RECIPES[name]
    exact = Mixture(recipe.classes, torch.float32)
    model = LogDensity(recipe.width, seed)
    average = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    power, done = average_power(0.010), 0
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / f"{name}-{seed}.pt"
    parts: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        done = state["done"]
        generator.set_state(state["generator"])
        for key, part in parts.items():
            part.load_state_dict(state[key])

    bar = tqdm(range(done, recipe.iterations), f"training {name}", recipe.iterations, initial=done)
    recent = math.nan
    for iteration in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration)
        model.normalise()
        loss = step_loss(model, exact, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keep = (1 - 1 / (iteration + 1)) ** (power + 1)
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(weight, 1 - keep)
        value = loss.item()
        recent = value if math.isnan(recent) else 0.95 * recent + 0.05 * value
        bar.set_postfix(loss=f"{recent:.4f}", refresh=False)
        if (iteration + 1) % every == 0 or iteration + 1 == recipe.iterations:
            state = {key: part.state_dict() for key, part in parts.items()}
            waiting = saved.with_suffix(".tmp")
            torch.save(state | {"done": iteration + 1, "generator": generator.get_state()}, waiting)
            waiting.replace(saved)
    return average.eval()


def step_loss(model: LogDensity, exact: Mixture, generator: torch.Generator) -> Tensor:
    """``sigma^2 * mean((exact score - score)^2)`` at a batch of points of p(x; sigma).

    Levels are those of ``log sigma ~ N(-2.3, 1.5^2)``.
    """
    sigma = (torch.randn(BATCH, generator=generator) * 1.5 - 2.3).exp()
    x = exact.sample(BATCH, sigma, generator)
    gap = exact.score(x, sigma) - model.score(x, sigma)
    return (sigma[:, None] * gap).square().mean()


def load(folder: Path = SHIPPED) -> dict[str, LogDensity]:
    """The trained networks by name, from a folder of safetensors; without one, those that ship."""
    networks = {}
    for name, recipe in RECIPES.items():
        networks[name] = LogDensity(recipe.width)
        networks[name].load_state_dict(load_file(folder / f"{name}.safetensors"))
    return networks


def save(networks: dict[str, LogDensity], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        recipe = RECIPES[name]
        about = {
            "classes": recipe.classes, "width": str(recipe.width),
            "iterations": str(recipe.iterations),
        }  # fmt: skip
        save_file(network.state_dict(), folder / f"{name}.safetensors", about)
