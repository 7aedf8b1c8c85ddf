"""The figures: samples, what the networks believe, trajectories, and what a scale costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from guiders import Guider
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from metrics import FAR, Metrics
from mixture import OUTLINE, Mixture
from network import LogDensity
from sampling import TITLES, generator, trajectories
from torch import Tensor

SIGMA = 0.03  # of the densities, and where the trajectories begin
APART = 0.045  # of the trajectories' starts
DEEP = 14  # how far below the peak log densities are shown
POINTS, PATHS, LAND, OTHER = "#1d3557", "#d1495b", "#f3b562", "#c9ced6"
DENSITY, RATIO = "YlGnBu", "PuOr_r"


@dataclass(frozen=True)
class View:
    """A square about (x, y), with a mesh of points on it."""

    x: float
    y: float
    half: float
    count: int = 400

    def mesh(self) -> tuple[Tensor, Tensor]:
        side = torch.linspace(-self.half, self.half, self.count)
        across, up = torch.meshgrid(side + self.x, side + self.y, indexing="xy")
        return across, up

    def points(self) -> Tensor:
        return torch.stack(self.mesh(), -1).reshape(-1, 2)

    def areas(self) -> dict[str, Tensor]:
        """The clean log densities of both classes on the mesh."""
        return {
            name: Mixture(name, torch.float32)
            .log_density(self.points())
            .view(self.count, self.count)
            for name in "AB"
        }

    def frame(self, ax: Axes, title: str) -> None:
        half = self.half
        ax.set(xlim=(self.x - half, self.x + half), ylim=(self.y - half, self.y + half))
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.set_title(title, fontsize=12)
        for side in ax.spines.values():
            side.set_color("#999999")


WHOLE, CLOSE = View(0.30, 0.30, 1.2), View(0.45, 1.22, 0.3)


def figure(
    path: Path,
    truth: Tensor,
    samples: Mapping[str, Tensor],
    networks: Mapping[str, LogDensity],
    guiders: Mapping[str, Guider],
) -> None:
    """Write the figure as a PNG.

    Args:
        truth: exact samples (N, 2).
        samples, guiders: by the names of ``sampling.methods``.
        networks: by the names of ``train.RECIPES``.
    """
    fig, grid = plt.subplots(3, 4, figsize=(13, 10), layout="constrained", dpi=110)
    whole, close = WHOLE.areas(), CLOSE.areas()
    titles = ["exact", *(TITLES[name] for name in guiders)]

    for ax, points, title in zip(grid[0], [truth, *samples.values()], titles, strict=True):
        _land(ax, WHOLE, whole)
        ax.scatter(*points.T, s=1.2, c=POINTS, alpha=0.55, linewidths=0, rasterized=True)
        WHOLE.frame(ax, title)

    main, weak, both = (_field(networks[name]) for name in ("main", "weak", "both"))
    near = main > main.max() - DEEP
    panels = {
        "exact": (_field(Mixture("A", torch.float32)), DENSITY),
        "main network": (main, DENSITY),
        "main / network of both classes": (main - both, RATIO),
        "main / weak network": (main - weak, RATIO),
    }
    for ax, (title, (field, colours)) in zip(grid[1], panels.items(), strict=True):
        _heat(ax, field, colours, near)
        edge = {"colors": "#333333", "linewidths": 0.5, "linestyles": "solid"}
        ax.contour(*WHOLE.mesh(), whole["A"], [OUTLINE], **edge)
        WHOLE.frame(ax, title)

    begin = _starts(Mixture("A"))
    runs = [(Mixture("A"), guiders["unguided"]), *((networks["main"], g) for g in guiders.values())]
    for ax, (network, guider), title in zip(grid[2], runs, titles, strict=True):
        _land(ax, CLOSE, close)
        _paths(ax, trajectories(network, guider, begin, SIGMA))
        CLOSE.frame(ax, title)

    rows = ("samples", f"log density at sigma {SIGMA:g}", f"trajectories from sigma {SIGMA:g}")
    for ax, text in zip(grid[:, 0], rows, strict=True):
        ax.set_ylabel(text, fontsize=12)
    _write(fig, path)


def trade_off(
    path: Path, exact: Metrics, unguided: Metrics, curves: Mapping[str, Mapping[float, Metrics]]
) -> None:
    """Write a plot of outliers against lost variety as a PNG.

    Args:
        exact, unguided: of exact samples, and of the network without guidance.
        curves: by method and scale.
    """
    fig, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", dpi=110)
    names = {"outliers": f"outliers, log p < {OUTLINE:.1f}", "far": f"far ones, log p < {FAR:.1f}"}
    for ax, (name, label) in zip(panels, names.items(), strict=True):

        def place(found: Metrics, name: str = name) -> tuple[float, float]:
            return found.variation, 100 * getattr(found, name)

        for (method, curve), colour in zip(curves.items(), (POINTS, PATHS), strict=True):
            line = [unguided, *curve.values()]
            ax.plot(*zip(*map(place, line), strict=True), "o-", color=colour, label=method, ms=5)
            for scale, found in curve.items():
                if scale >= 2:  # the others lie too close
                    _note(ax, f"{scale:g}", place(found))
        _note(ax, "unguided", place(unguided))
        ax.plot(*place(exact), "*", color=LAND, markersize=13)
        _note(ax, "exact", place(exact))
        ax.set(xlabel="total variation of the branches' shares", ylabel=f"{label}, %")
        ax.set(xlim=(0, None), ylim=(0, None))
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, loc="lower right")
    _write(fig, path)


def _write(fig: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)
    plt.close(fig)


def _note(ax: Axes, text: str, place: tuple[float, float]) -> None:
    ax.annotate(text, place, (7, 4), textcoords="offset points", fontsize=9)


def _land(ax: Axes, view: View, areas: Mapping[str, Tensor]) -> None:
    """The classes as areas; the one that is sampled on top."""
    for name, colour in (("B", OTHER), ("A", LAND)):
        ax.contourf(*view.mesh(), areas[name], [OUTLINE, math.inf], colors=[colour])


def _field(network: LogDensity | Mixture) -> Tensor:
    """A network's log density at ``SIGMA`` on the whole view, normalised there."""
    points = WHOLE.points()
    with torch.no_grad():
        values = network.log_density(points, torch.full((len(points),), SIGMA))
    return (values - values.logsumexp(0)).view(WHOLE.count, WHOLE.count)


def _heat(ax: Axes, field: Tensor, colours: str, near: Tensor) -> None:
    """A field where ``near`` is true; ratios about their median there."""
    if colours == RATIO:
        field = field - field[near].median()
        high = field[near].abs().quantile(0.98).item()
        low = -high
    else:
        high = field.max().item()
        low = high - DEEP
    shown = field.masked_fill(~near, math.nan)
    ax.pcolormesh(*WHOLE.mesh(), shown, cmap=colours, vmin=low, vmax=high, rasterized=True)


def _starts(exact: Mixture) -> Tensor:
    """Points of p(x; SIGMA) in the close-up, none closer to another than ``APART``."""
    drawn = exact.sample(20_000, SIGMA, generator(0))
    inside = drawn[(drawn - torch.tensor([CLOSE.x, CLOSE.y])).abs().max(1).values < CLOSE.half]
    kept = inside[:1]
    for point in inside[1:]:
        if (kept - point).norm(dim=1).min() >= APART:
            kept = torch.cat([kept, point[None]])
    return kept


def _paths(ax: Axes, paths: Tensor) -> None:
    ax.plot(*paths.permute(2, 0, 1).numpy(), color=PATHS, linewidth=0.9, alpha=0.9)
    ax.scatter(*paths[0].T, s=7, facecolors="white", edgecolors=PATHS, linewidths=0.8, zorder=3)
    ax.scatter(*paths[-1].T, s=11, c=POINTS, linewidths=0, zorder=4)
