"""One style for all figures, and the files that a figure becomes.

Importing this changes nothing in matplotlib: figures are built without pyplot, and `theme` lasts while one is drawn.
"""

import contextlib
import csv
import os
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write

from .estimates import Estimate
from .findings import Finding

WIDTH = 7.2  # inches, of a figure as wide as a page's text
DPI = 200  # of PNGs
CSV_HEADER = ("what", "value", "low", "high", "std")
SIGNIFICANT_DIGITS = 6  # in files; float32 carries about seven

# Colour, line style and marker of the models of a comparison, in its order: plain CLIP, the tuned run, compared runs.
# Their lightness differs too, so that they can be told apart in greyscale.
STYLES: list[dict[str, Any]] = [
    {"color": "#1f4e9e", "linestyle": "-", "marker": "o"},
    {"color": "#e0402f", "linestyle": "--", "marker": "^"},
    {"color": "#f2a93b", "linestyle": "-.", "marker": "s"},
    {"color": "#2b7a4b", "linestyle": ":", "marker": "D"},
    {"color": "#8d6cc1", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#555555", "linestyle": (0, (1, 1)), "marker": "P"},
]
# The readout row alone, beside all inputs of a branch, which are drawn in the run's own style.
READOUT, READOUT_STYLE = "[cls] or EOS alone", {"color": "#333333", "linestyle": "-", "marker": "s"}

THEME: dict[Any, Any] = {
    "figure.dpi": 100,
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


class HeadPanel(NamedTuple):
    """One panel of `heads_grid`."""

    title: str
    values: np.ndarray  # (L, H)
    model: int  # its index in the comparison, for its style


@dataclass
class Result:
    """What a command found.

    Attributes:
        how_to_read: a few sentences for somebody who sees the figures for the first time.
        headlines: the numbers that matter, (what, value); printed, in the report, and a CSV.
        figures: file name (without extension) -> figure.
        arrays: everything that was plotted, and more, by name; an .npz.
        found: the dataclass that all this was made from, where it can be averaged over seeds; otherwise None.
        findings: what it says of the paper's findings on the tuned run.
    """

    how_to_read: str
    headlines: list[tuple[str, float]] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    found: Any = None
    findings: list[Finding] = field(default_factory=list)


def relative_departure(plain: HeadPanel, tuned: HeadPanel) -> float:
    """How far the means over heads are apart in a block, on average over blocks, in % of plain CLIP's."""
    before, after = plain.values.mean(1), tuned.values.mean(1)
    return 100 * float(np.mean(abs(after - before) / abs(before)))


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """matplotlib's settings for our figures, as a context or as a decorator of a function that draws.

    Lines, labels and legends read the settings when they are made, so a figure must be drawn inside.
    """
    with matplotlib.rc_context(THEME):
        yield


def style(model: int) -> dict[str, Any]:
    """Colour, line style and marker of the model with that index in a comparison."""
    return STYLES[model % len(STYLES)]


def subplots(
    rows: int = 1,
    columns: int = 1,
    height: float = 2.4,
    width: float = WIDTH,
    layout: Any = "constrained",
    **kwargs: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, an array (rows, columns).

    Args:
        height: of one row, in inches.
        width: of the figure, in inches.
        layout: matplotlib's layout engine; "none" to place the axes oneself.
        kwargs: as for `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height * rows), layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def block_axis(ax: Axes, blocks: int) -> None:
    """Number the blocks along x, at 1, 2, ..."""
    ax.set_xticks(np.arange(1, blocks + 1, 1 if blocks <= 12 else 4))
    ax.set_xlim(0.4, blocks + 0.6)
    ax.set_xlabel("block")


def plot_heads(ax: Axes, values: np.ndarray, style: dict[str, Any], shift: float = 0.0, label: str = "") -> None:
    """Values (L, H) over the blocks: a dot for each head and a line through their mean.

    Args:
        style: as `style` returns it.
        shift: of the dots along x, in blocks, so that those of several models stand side by side.
    """
    x = np.arange(1, len(values) + 1) + shift
    marker, color = style["marker"], style["color"]
    dots: dict[str, Any] = {"linestyle": "none", "marker": marker, "markersize": 3, "alpha": 0.55, "markeredgewidth": 0}
    ax.plot(x[:, None].repeat(values.shape[1], 1), values, color=color, **dots)
    outline: dict[str, Any] = {"markersize": 3.5, "markeredgecolor": "white", "markeredgewidth": 0.4}
    ax.plot(x, values.mean(1), **style, **outline, label=label)


def legend(figure: Figure, columns: int = 4) -> None:
    """One legend above all axes, of everything that is labelled in any of them, at most `columns` entries wide."""
    labels = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(labels.values(), labels, loc="outside upper center", ncols=min(columns, len(labels)))


def wrap(text: str, width: int = 30) -> str:
    """Text in lines of at most `width` characters where its words allow it; what follows a comma begins a new line."""
    parts = text.split(", ") if len(text) > width else [text]
    return "\n".join(textwrap.fill(part, width, break_long_words=False, break_on_hyphens=False) for part in parts)


def heads_grid(panels: Sequence[HeadPanel], ylabel: str, reference_line: tuple[float, str] | None = None) -> Figure:
    """A panel of `plot_heads` for each; the first one's mean is repeated in grey in all others.

    Args:
        reference_line: a value for a thin dashed line through all panels, and its name; y then begins at 0.
    """
    columns = 2 if len(panels) == 4 else 3
    rows = -(-len(panels) // columns)
    figure, axes = subplots(rows, min(columns, len(panels)), height=2.3, sharex=True, sharey=True)
    first = panels[0].values.mean(1)
    for at, (ax, panel) in enumerate(zip(axes.flat, panels)):
        if at:
            ax.plot(range(1, 1 + len(first)), first, color="0.6", linewidth=1, label=f"mean of {panels[0].title}")
        if reference_line:
            y, name = reference_line
            ax.axhline(y, color="0.3", linewidth=0.7, linestyle=(0, (4, 3)), label=name)
        if at == 1:
            ax.legend(fontsize=7)
        plot_heads(ax, panel.values, style(panel.model))
        ax.set_title(wrap(panel.title), fontsize=8 if len(panel.title) > 30 else None)
        block_axis(ax, len(panel.values))
        ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    if reference_line:
        axes[0, 0].set_ylim(0)
    return figure


def format_number(value: float) -> str:
    """An int as it is; other numbers with four significant digits, and without a power of ten from 0.001 to a million.

    >>> format_number(54000), format_number(12345.6), format_number(0.00123456), format_number(1.4e-14)
    ('54000', '12346', '0.001235', '1.4e-14')
    >>> format_number(Estimate(2.5, std=0.25)), format_number(Estimate(2.5, interval=(2, 3)))
    ('2.5 ± 0.25', '2.5 [2, 3]')
    """
    if isinstance(value, (int, np.integer)):
        return str(value)
    text = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{float(value):.4g}"
    if isinstance(value, Estimate):
        if value.std is not None:
            text += f" ± {format_number(value.std)}"
        if value.interval is not None:
            text += f" [{', '.join(map(format_number, map(float, value.interval)))}]"
    return text


def csv_row(what: str, value: float) -> Sequence[str]:
    """A number for a file, with the ends of its 95 % interval and its standard deviation where it has them.

    >>> csv_row("ratio", 1.00000005), csv_row("images", 540)
    (('ratio', '1', '', '', ''), ('images', '540', '', '', ''))
    """
    low, high = getattr(value, "interval", None) or (None, None)
    return (what, *map(significant, (value, low, high, getattr(value, "std", None))))


def significant(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, (int, np.integer)) else f"{float(value):.{SIGNIFICANT_DIGITS}g}"


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


@theme()
def save(result: Result, folder: str, name: str) -> list[str]:
    """Write `result` into `folder`: a PNG and a PDF of each figure, <name>.npz, <name>.csv. The files appear complete.

    Returns:
        Their paths.

    Raises:
        UserError: the folder cannot be written to.
    """
    written = []
    # Without a date in it the same figure is the same file.
    for stem, figure in result.figures.items():
        for extension, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with atomic_write(file_path(folder, stem, extension), "wb") as file:
                figure.savefig(file, format=extension, dpi=DPI, metadata=metadata)
            written.append(file_path(folder, stem, extension))
    with atomic_write(file_path(folder, name, "npz"), "wb") as file:
        np.savez(file, **result.arrays)  # type: ignore[arg-type]  # mypy takes the names for its own arguments
    with atomic_write(file_path(folder, name, "csv")) as file:
        csv.writer(file, lineterminator="\n").writerows([CSV_HEADER, *(csv_row(*row) for row in result.headlines)])
    return written + [file_path(folder, name, extension) for extension in ("npz", "csv")]


def file_path(folder: str, stem: str, extension: str) -> str:
    return os.path.join(folder, f"{stem}.{extension}")
