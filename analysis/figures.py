"""One look for all figures, and the files that a figure becomes."""

import csv
import os
import tempfile
import textwrap
from dataclasses import dataclass, field
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write

WIDTH = 7.2  # inches, of a figure as wide as a page's text

# Colour, line style and marker of the models of a study, in its order: plain CLIP, the tuned run, runs to compare with.
# Their lightness differs too, so that they can be told apart in greyscale.
LOOKS = [
    {"color": "#1f4e9e", "linestyle": "-", "marker": "o"},
    {"color": "#e0402f", "linestyle": "--", "marker": "^"},
    {"color": "#f2a93b", "linestyle": "-.", "marker": "s"},
    {"color": "#2b7a4b", "linestyle": ":", "marker": "D"},
    {"color": "#8d6cc1", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#555555", "linestyle": (0, (1, 1)), "marker": "P"},
]

plt.rcParams.update(
    {
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "figure.constrained_layout.use": True,
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "grid.linewidth": 0.5,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.4,
        "lines.markersize": 3.5,
        "pdf.fonttype": 42,  # text stays text
    }
)


@dataclass
class Result:
    """What a command found.

    Attributes:
        how_to_read: a few sentences for somebody who sees the figures for the first time.
        headlines: the numbers that matter, (what, value); printed, in the report, and a CSV.
        figures: file name (without ending) -> figure.
        numbers: all that was plotted, and more, by name; an .npz.
    """

    how_to_read: str
    headlines: list[tuple[str, float]] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)


def look(index: int) -> dict[str, object]:
    """Colour, line style and marker of the model with that index in a study."""
    return LOOKS[index % len(LOOKS)]


def subplots(
    rows: int = 1, columns: int = 1, height: float = 2.4, width: float = WIDTH, **kwargs
) -> tuple[Figure, np.ndarray]:
    """A figure `width` inches wide, with an array (rows, columns) of axes that are `height` inches high each."""
    return plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, **kwargs)


def block_axis(axes: Axes, blocks: int) -> None:
    """Number the blocks from 1 along x, at 1, 2, ..."""
    axes.set_xticks(np.arange(1, blocks + 1, 1 if blocks <= 12 else 4))
    axes.set_xlim(0.4, blocks + 0.6)
    axes.set_xlabel("block")


def heads_per_block(axes: Axes, values: np.ndarray, index: int, of: int = 1, place: int = 0, label: str = "") -> None:
    """Values (L, H): a dot for each head and a line through their mean, over the blocks, for a model of a study.

    Args:
        index: of the model in the study, for its look.
        of, place: so many models share the axes, and this is one of them (from 0): their dots stand side by side.
    """
    style = look(index)
    x = np.arange(1, len(values) + 1) + 0.2 * (place - (of - 1) / 2)
    axes.plot(
        x[:, None].repeat(values.shape[1], 1),
        values,
        linestyle="none",
        marker=style["marker"],
        markersize=3,
        color=style["color"],
        alpha=0.55,
        markeredgewidth=0,
    )
    axes.plot(
        x,
        values.mean(1),
        color=style["color"],
        linestyle=style["linestyle"],
        marker=style["marker"],
        markersize=3.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        label=label,
    )


def legend(figure: Figure) -> None:
    """One legend above all axes, of what any of them shows, at most four entries wide."""
    labels = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(labels.values(), labels, loc="outside upper center", ncols=min(4, len(labels)))


def wrapped(text: str, width: int = 30) -> str:
    """Text in lines of at most `width` characters, where its words allow it; "w/o prompt" and the like on a line of its own."""
    return "\n".join(
        textwrap.fill(part, width, break_long_words=False, break_on_hyphens=False)
        for part in (text.split(", ") if len(text) > width else [text])
    )


def heads_grid(
    panels: Sequence[tuple[int, str, np.ndarray]], ylabel: str, level: tuple[float, str] | None = None
) -> Figure:
    """A panel of `heads_per_block` for each (index of the model, title, values (L, H)); the first one's mean is repeated in
    grey in all others.

    Args:
        level: a value for a thin line through all panels, and what it is; y then begins at 0.
    """
    columns = 2 if len(panels) == 4 else 3
    rows = -(-len(panels) // columns)
    figure, axes = subplots(rows, min(columns, len(panels)), height=2.3, sharex=True, sharey=True)
    reference = panels[0][2].mean(1)
    for place, (ax, (index, title, values)) in enumerate(zip(axes.flat, panels)):
        if place:
            ax.plot(range(1, 1 + len(reference)), reference, color="0.6", linewidth=1, label=f"mean of {panels[0][1]}")
        if level:
            ax.axhline(level[0], color="0.3", linewidth=0.7, linestyle=(0, (4, 3)), label=level[1])
        if place == 1:
            ax.legend(fontsize=7)
        heads_per_block(ax, values, index)
        ax.set_title(wrapped(title), fontsize=8 if len(title) > 30 else None)
        block_axis(ax, len(values))
        ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    if level:
        axes[0, 0].set_ylim(0)
    return figure


def readable(value: float) -> str:
    """An int as it is; other numbers with four digits that count, and without a power of ten from 0.001 to a million.

    >>> readable(54000), readable(12345.6), readable(0.00123456), readable(1.4e-14)
    ('54000', '12346', '0.001235', '1.4e-14')
    """
    if isinstance(value, (int, np.integer)):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def check_writable(folder: str) -> None:
    """To be called before long work whose results go into `folder`, which need not exist yet. Leaves nothing behind.

    Raises:
        UserError: it cannot be written to.
    """
    nearest = os.path.abspath(folder)
    while not os.path.exists(nearest):
        nearest = os.path.dirname(nearest)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"cannot write into {folder} ({error.strerror}); choose another --output") from error


def save(result: Result, folder: str, name: str) -> list[str]:
    """Write `result` into `folder`: a PNG and a PDF of each figure, <name>.npz, <name>.csv. The files appear complete.

    Returns:
        Their paths.

    Raises:
        UserError: the folder cannot be written to.
    """
    written = []
    for stem, figure in result.figures.items():
        for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with atomic_write(file_path(folder, stem, ending), "wb") as file:
                figure.savefig(
                    file, format=ending, metadata=metadata
                )  # without a date the same figure is the same file
            written.append(file_path(folder, stem, ending))
    with atomic_write(file_path(folder, name, "npz"), "wb") as file:
        np.savez(file, **result.numbers)
    with atomic_write(file_path(folder, name, "csv")) as file:
        csv.writer(file, lineterminator="\n").writerows([("what", "value"), *result.headlines])
    return written + [file_path(folder, name, ending) for ending in ("npz", "csv")]


def file_path(folder: str, stem: str, ending: str) -> str:
    return os.path.join(folder, f"{stem}.{ending}")
