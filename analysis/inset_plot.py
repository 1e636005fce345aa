"""Curves of several models on both sides of a dividing line, with an inset that enlarges a part of them."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import legend, style, subplots, theme

MAX_MARKERS = 20  # points of a curve that still has room for markers
MAX_TICKS = 15  # with names, so that they do not overlap
INSET_BOTTOM, INSET_HEIGHT, CURVES_TOP = 0.54, 0.38, 0.42  # of the height of the axes

# A model's curve left and right of the dividing line: (x, y) each.
Halves = list[tuple[np.ndarray, np.ndarray]]


class Inset(NamedTuple):
    """What an inset shows, and where."""

    title: str
    shown: tuple[float, float]  # the range of x that it enlarges
    above: tuple[float, float]  # the range of x of the axes that it stands above


@theme()
def plot_curves(
    curves: dict[str, Halves], divider: float, limits: tuple[float, float], inset: Inset | None
) -> tuple[Figure, Axes]:
    """One curve per model. The inset, if there is one, is a child of the axes.

    Args:
        curves: label -> halves, in the order of the comparison.
        divider, limits: in units of x.
    """
    figure, axes = subplots(1, 1, height=3.1)
    ax = axes[0, 0]
    for model, (label, halves) in enumerate(curves.items()):
        for (x, y), name in zip(halves, (label, "")):
            plot_curve(ax, x, y, model, name)
    top = max(y.max() for halves in curves.values() for _, y in halves if len(y))
    if inset:
        add_inset(ax, curves, divider, limits, inset)
        below = [y[(inset.above[0] <= x) & (x <= inset.above[1])] for halves in curves.values() for x, y in halves]
        top = max(top, max(y.max(initial=0) for y in below) / CURVES_TOP)
    ax.set_xlim(limits)
    ax.set_ylim(0, 1.06 * max(top, 1e-12))
    ax.set_ylabel("share of relevancy")
    draw_divider(ax, divider, limits)
    legend(figure)
    return figure, ax


def add_inset(ax: Axes, curves: dict[str, Halves], divider: float, limits: tuple[float, float], inset: Inset) -> None:
    """Enlarge what `inset` shows of the curves."""
    left, right = ((x - limits[0]) / (limits[1] - limits[0]) for x in inset.above)
    small = ax.inset_axes((left, INSET_BOTTOM, right - left, INSET_HEIGHT))
    for model, halves in enumerate(curves.values()):
        for x, y in halves:
            inside = (inset.shown[0] <= x) & (x <= inset.shown[1])
            plot_curve(small, x[inside], y[inside], model)
    draw_divider(small, divider, inset.shown)
    small.set_title(inset.title, fontsize=7, pad=2)
    small.set_ylim(0)
    small.tick_params(labelsize=6.5, length=2)


def plot_curve(ax: Axes, x: np.ndarray, y: np.ndarray, model: int, label: str = "") -> None:
    """One curve in the style of its model; the areas below CLIP's and the tuned run's are shaded."""
    line = dict(style(model))
    if len(x) > MAX_MARKERS:
        line["marker"] = ""
    ax.plot(x, y, label=label, **line)
    if model < 2:  # further overlapping areas could not be told apart
        ax.fill_between(x, y, color=line["color"], alpha=0.15, linewidth=0)


def draw_divider(ax: Axes, x: float, limits: tuple[float, float]) -> None:
    if limits[0] < x < limits[1]:
        ax.axvline(x, color="#b01515", linewidth=1, zorder=1)


def set_named_ticks(ax: Any, start: int, names: list[str], maximum: int = MAX_TICKS) -> None:
    """Name the ticks at x = start, start + 1, ...; where there are more than `maximum`, every second, third, ..."""
    step = -(-len(names) // maximum)
    ax.set_xticks(range(start, start + len(names), step), names[::step])
