"""One result of several seeds: mean ± standard deviation of numbers, bands around lines. The same for every figure.

Each seed is measured on its own, and the mean of what was found is shown like one run; its figures are given the spread
of the seeds' own figures.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from promptbias.utils.errors import UserError

from .commands import module_of
from .comparison import Comparison, ComparisonOverSeeds
from .estimates import over_seeds
from .figures import Result, theme
from .findings import mean_of_seeds

ALONE = " Of several seeds only seed {} is shown: this figure is not averaged."
FIGURE_ALONE = " The figure shows seed {} alone; the numbers are means ± standard deviation over seeds {}."
AVERAGED = (
    " Mean over seeds {}: each number is a mean ± standard deviation over seeds; bands are one standard deviation, and "
    "strokes are single seeds. Brackets are 95 % intervals over images of the mean over seeds."
)


def result_of(name: str, comparison: Comparison, args: argparse.Namespace) -> Result:
    """What a figure's command finds in a comparison; of several seeds, their mean.

    Raises:
        UserError: as the command; or the seeds' numbers do not go together.
    """
    module = module_of(name)
    if not isinstance(comparison, ComparisonOverSeeds):
        return module.run(comparison, args)
    seeds, first = comparison.seeds, module.run(comparison, args)
    if first.found is None and not first.findings:
        return dataclasses.replace(first, how_to_read=first.how_to_read + ALONE.format(seeds[0]))
    results = [first if each is comparison else module.run(each, args) for each in comparison.each_seed()]
    if first.found is None:
        numbers = mean_headlines([dict(result.headlines) for result in results], {})
        tested = mean_of_seeds([result.findings for result in results], first.findings)
        note = FIGURE_ALONE.format(seeds[0], ", ".join(map(str, seeds)))
        return dataclasses.replace(first, how_to_read=first.how_to_read + note, headlines=numbers, findings=tested)
    return combine(module, results, seeds)


def combine(module: ModuleType, results: Sequence[Result], seeds: Sequence[int]) -> Result:
    """The mean of the results of several seeds of the figure that `module` makes."""
    mean = mean_of([result.found for result in results])
    figures = module.plot(mean)
    for stem, figure in figures.items():
        show_spread(figure, [result.figures[stem] for result in results])
    return Result(
        module.describe(mean) + AVERAGED.format(", ".join(map(str, seeds))),
        mean_headlines([dict(result.headlines) for result in results], dict(module.headlines(mean))),
        figures,
        stacked([result.arrays for result in results], seeds),
        mean,
        mean_of_seeds([result.findings for result in results], getattr(module, "findings", lambda found: [])(mean)),
    )


def mean_of(values: Sequence[Any]) -> Any:
    """The mean of equal structures: floats and arrays are averaged; what else they hold must be equal.

    Raises:
        UserError: it is not.
    """
    first = values[0]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        return dataclasses.replace(first, **{name: mean_of([getattr(v, name) for v in values]) for name in names})
    if isinstance(first, dict) and all(list(value) == list(first) for value in values):
        return {key: mean_of([value[key] for value in values]) for key in first}
    if isinstance(first, (list, tuple)) and all(len(value) == len(first) for value in values):
        means = map(mean_of, zip(*values))
        return type(first)(*means) if hasattr(first, "_fields") else type(first)(means)
    if isinstance(first, np.ndarray):
        return mean_array(values)
    if isinstance(first, float):
        return float(np.mean(values))
    if any(value != first for value in values):
        raise UserError(
            "these seeds cannot be averaged: their results differ in more than numbers; show them one by one"
        )
    return first


def mean_array(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of arrays, each entry over those where it is not NaN. Arrays of different images are joined."""
    if len({value.shape for value in values}) > 1:
        return np.concatenate(values)
    stack = np.stack(values).astype(float)
    known = ~np.isnan(stack)
    with np.errstate(invalid="ignore"):  # NaN in all of them stays NaN
        return np.where(known, stack, 0).sum(0) / known.sum(0)


def mean_headlines(of_seeds: Sequence[dict[str, float]], of_mean: dict[str, float]) -> list[tuple[str, float]]:
    """The numbers of each seed by name -> mean ± std over seeds. The intervals are those of the mean, `of_mean`.

    A number that some seeds lack says of how many it is.
    """
    found: list[tuple[str, float]] = []
    for what in dict.fromkeys(what for numbers in of_seeds for what in numbers):
        values = [numbers[what] for numbers in of_seeds if what in numbers]
        name = what if len(values) == len(of_seeds) else f"{what} ({len(values)} of {len(of_seeds)} seeds)"
        if all(isinstance(value, int) and value == values[0] for value in values):  # a count
            found.append((name, values[0]))
        else:
            found.append((name, over_seeds(values, getattr(of_mean.get(what), "interval", None))))
    return found


def stacked(arrays: Sequence[dict[str, np.ndarray]], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """The arrays of each seed by name, along a new first axis. What is equal in all seeds is kept once; what differs
    in shape has one name for each seed.
    """
    found = {}
    for name, first in arrays[0].items():
        values = [of_seed[name] for of_seed in arrays]
        if first.dtype.kind == "U" and all(np.array_equal(value, first) for value in values):
            found[name] = first
        elif all(value.shape == first.shape for value in values):
            found[name] = np.stack(values)
        else:
            found.update({f"{name}, seed {seed}": value for seed, value in zip(seeds, values)})
    return {**found, "seeds": np.array(seeds)}


@theme()
def show_spread(figure: Figure, of_seeds: Sequence[Figure]) -> None:
    """Show in `figure`, which is of the mean, how far the same figures of the seeds lie apart.

    Lines become their mean with a band of one standard deviation; points with error bars get a stroke for each seed.
    Dots and bars stay those of the mean.
    """
    for ax, *others in zip(axes_of(figure), *map(axes_of, of_seeds)):
        for line, *same in zip(list(ax.lines), *(other.lines for other in others)):
            x, y = line.get_xdata(), np.stack([np.asarray(other.get_ydata(), float) for other in same])
            along = all(np.array_equal(x, other.get_xdata()) for other in same)
            if line.get_linestyle() != "None" and along and y.std(0).any():
                mean, std = y.mean(0), y.std(0)
                line.set_ydata(mean)
                ax.fill_between(x, mean - std, mean + std, color=line.get_color(), alpha=0.25, linewidth=0)
        for points in zip(*(error_bars(each) for each in (ax, *others))):
            stroke: dict[str, Any] = {"marker": "|", "linestyle": "none", "markersize": 7, "alpha": 0.6}
            for of_seed in points[1:]:
                ax.plot(*of_seed.get_data(), color=points[0].get_color(), zorder=1, **stroke)


def error_bars(ax: Axes) -> list[Line2D]:
    """The points, without a line through them, that have error bars along x."""
    drawn = [bars.lines[0] for bars in ax.containers if isinstance(bars, ErrorbarContainer) and bars.has_xerr]
    return [points for points in drawn if points is not None and points.get_linestyle() == "None"]


def axes_of(figure: Figure) -> Iterator[Axes]:
    """All axes, insets included."""
    for ax in figure.axes:
        yield ax
        yield from (inset for inset in ax.child_axes if isinstance(inset, Axes))
