"""The figure: samples, what the networks believe, and trajectories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from guiders import Guider
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from metrics import FAR, Metrics
from mixture import OUTLINE, Mixture
from network import LogDensity
from sampling import TITLES, trajectories
from torch import Tensor

VIEW = (0.30, 0.30, 1.2)  # middle and half the width
CLOSE = (0.45, 1.22, 0.3)
DEEP = 14  # how far below the peak log densities are shown
RATIO = "PuOr_r"
SIGMA = 0.03  # the noise level at which the close-ups begin
APART = 0.045  # of their starting points
POINTS, PATHS, LAND, OTHER = "#1d3557", "#d1495b", "#f3b562", "#c9ced6"


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
    exact = Mixture("A")
    columns = [("exact", truth), *((name, samples[name]) for name in guiders)]
    for ax, (name, points) in zip(grid[0], columns, strict=True):
        _land(ax, exact)
        _scatter(ax, points)
        _frame(ax, TITLES.get(name, "exact samples of class A"), VIEW)

    main, weak, both = (_field(networks[name]) for name in ("main", "weak", "both"))
    panels = [
        (_field(exact), "YlGnBu", "exact log density"),
        (main, "YlGnBu", "main network's"),
        (main - both, RATIO, "main - network of both classes"),
        (main - weak, RATIO, "main - weak network"),
    ]
    near = main > main.max() - DEEP
    for ax, (field, colours, title) in zip(grid[1], panels, strict=True):
        _heat(ax, field, colours, near, exact)
        _frame(ax, title, VIEW)

    begin = _starts(exact)
    runs = [(Mixture("A"), guiders["unguided"]), *((networks["main"], g) for g in guiders.values())]
    for ax, (network, guider), (name, _) in zip(grid[2], runs, columns, strict=True):
        _land(ax, exact, CLOSE)
        _trajectories(ax, trajectories(network, guider, begin, SIGMA))
        _frame(ax, TITLES.get(name, "exact score"), CLOSE)

    rows = ("samples", f"log density at sigma {SIGMA:g}", f"trajectories from sigma {SIGMA:g}")
    for ax, text in zip(grid[:, 0], rows, strict=True):
        ax.set_ylabel(text, fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)
    plt.close(fig)


def trade_off(
    path: Path, exact: Metrics, unguided: Metrics, curves: Mapping[str, Mapping[float, Metrics]]
) -> None:
    """Write a plot of outliers against lost variety as a PNG.

    Args:
        exact, unguided: of exact samples, and of the network without guidance.
        curves: by method and scale.
    """
    fig, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", dpi=110)
    for ax, name in zip(panels, ("outliers", "far"), strict=True):
        for (method, curve), colour in zip(curves.items(), (POINTS, PATHS), strict=True):
            line = [unguided, *curve.values()]
            xs = [m.variation for m in line]
            ys = [100 * getattr(m, name) for m in line]
            ax.plot(xs, ys, "o-", color=colour, label=method, markersize=5)
            for x, y, scale in zip(xs[1:], ys[1:], curve, strict=True):
                ax.annotate(f"{scale:g}", (x, y), (4, 5), textcoords="offset points", fontsize=9)
        start = (unguided.variation, 100 * getattr(unguided, name))
        ax.annotate("unguided", start, (6, 4), textcoords="offset points", fontsize=9)
        ax.plot(exact.variation, 100 * getattr(exact, name), "*", color=LAND, markersize=13)
        ax.set(xlabel="total variation of the branches' shares", xlim=(0, None), ylim=(0, None))
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"outliers: log p < {OUTLINE:.1f}, %")
    panels[1].set_ylabel(f"far outliers: log p < {FAR:.1f}, %")
    panels[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path)
    plt.close(fig)


def _frame(ax: Axes, title: str, view: tuple[float, float, float]) -> None:
    x, y, half = view
    ax.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=12)
    for side in ax.spines.values():
        side.set_color("#999999")


def _mesh(view: tuple[float, float, float], count: int) -> tuple[Tensor, Tensor, Tensor]:
    x, y, half = view
    side = torch.linspace(-half, half, count, dtype=torch.float64)
    across, up = torch.meshgrid(side + x, side + y, indexing="xy")
    return across, up, torch.stack([across, up], -1).reshape(-1, 2)


def _land(ax: Axes, exact: Mixture, view: tuple[float, float, float] = VIEW) -> None:
    """The classes as areas."""
    across, up, points = _mesh(view, 500)
    for mixture, colour in ((Mixture("B"), OTHER), (exact, LAND)):
        density = mixture.log_density(points).view(across.shape)
        level = OUTLINE
        ax.contourf(across, up, density, [level, 1e9], colors=[colour])


def _scatter(ax: Axes, points: Tensor) -> None:
    ax.scatter(*points.T, s=1.2, c=POINTS, alpha=0.55, linewidths=0, rasterized=True)


def _field(network: LogDensity | Mixture, count: int = 300) -> Tensor:
    """The log density of a network on the view, normalised there, at ``SIGMA``."""
    across, _, points = _mesh(VIEW, count)
    with torch.no_grad():
        if isinstance(network, Mixture):
            values = network.log_density(points, SIGMA)
        else:
            values = network.log_density(points.float(), torch.full((len(points),), SIGMA)).double()
    return (values - values.logsumexp(0)).view(across.shape)


def _heat(ax: Axes, field: Tensor, colours: str, near: Tensor, exact: Mixture) -> None:
    """A field where ``near`` is true; ratios about their median there."""
    across, up, points = _mesh(VIEW, len(field))
    if colours == RATIO:
        field = field - field[near].median()
        high = field[near].abs().quantile(0.98).item()
        low = -high
    else:
        high = field.max().item()
        low = high - DEEP
    shown = field.masked_fill(~near, math.nan)
    ax.pcolormesh(across, up, shown, cmap=colours, vmin=low, vmax=high, rasterized=True)
    density = exact.log_density(points).view(across.shape)
    ax.contour(across, up, density, [OUTLINE], colors=["#333333"], linewidths=0.5, linestyles="-")


def _starts(exact: Mixture) -> Tensor:
    """Points of p(x; SIGMA) in the close-up, none closer to another than ``APART``."""
    drawn = exact.sample(20_000, SIGMA, torch.Generator().manual_seed(0))
    x, y, half = CLOSE
    inside = drawn[(drawn - torch.tensor([x, y])).abs().max(1).values < half]
    kept = inside[:1]
    for point in inside[1:]:
        if (kept - point).norm(dim=1).min() >= APART:
            kept = torch.cat([kept, point[None]])
    return kept


def _trajectories(ax: Axes, paths: Tensor) -> None:
    ax.plot(*paths.permute(2, 0, 1).numpy(), color=PATHS, linewidth=0.9, alpha=0.9)
    ax.scatter(*paths[0].T, s=7, facecolors="white", edgecolors=PATHS, linewidths=0.8, zorder=3)
    ax.scatter(*paths[-1].T, s=11, c=POINTS, linewidths=0, zorder=4)
