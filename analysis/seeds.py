"""One result of several seeds: mean ± standard deviation of numbers, bands around lines. The same for every figure.

Each seed is measured on its own. The figure is drawn from the mean of what was found; wherever a line differs between
the seeds' own figures, it becomes their mean with a band.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptbias.experiments.results import mean_std
from promptbias.utils.errors import UserError

from .commands import module_of
from .comparison import Comparison, ComparisonOverSeeds
from .estimates import Estimate
from .figures import Result, theme

ALONE = " Of several seeds only seed {} is shown: this figure is not averaged."
AVERAGED = (
    " Mean over seeds {}: every number is a mean over seeds ± their standard deviation, and bands around lines are one "
    "standard deviation. Intervals over images, if any, are those of the mean."
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
    if first.found is None:
        return dataclasses.replace(first, how_to_read=first.how_to_read + ALONE.format(seeds[0]))
    results = [first if each is comparison else module.run(each, args) for each in comparison.each_seed()]
    return combine(module, results, seeds)


def combine(module: ModuleType, results: Sequence[Result], seeds: Sequence[int]) -> Result:
    """The mean of the results of several seeds of the figure that `module` makes."""
    mean = mean_of([result.found for result in results])
    figures = module.plot(mean)
    for stem, figure in figures.items():
        add_bands(figure, [result.figures[stem] for result in results])
    return Result(
        module.describe(mean) + AVERAGED.format(", ".join(map(str, seeds))),
        mean_headlines([dict(result.headlines) for result in results], dict(module.headlines(mean))),
        figures,
        {**stacked([result.arrays for result in results], seeds), "seeds": np.array(seeds)},
        mean,
    )


def mean_of(values: Sequence[Any]) -> Any:
    """The mean of equal structures: numbers and arrays are averaged; what else they hold must be equal.

    Arrays of different lengths, of different images, are joined.

    Raises:
        UserError: they are not of one structure.
    """
    first = values[0]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        return dataclasses.replace(first, **{name: mean_of([getattr(v, name) for v in values]) for name in names})
    if isinstance(first, dict) and all(list(value) == list(first) for value in values):
        return {key: mean_of([value[key] for value in values]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(mean_of(parts) for parts in zip(*values)))
    if isinstance(first, (list, tuple)) and all(len(value) == len(first) for value in values):
        return type(first)(mean_of(parts) for parts in zip(*values))
    if isinstance(first, np.ndarray) and first.dtype.kind in "bif":
        return mean_array(values)
    if all(np.array_equal(value, first) for value in values):
        return first
    if isinstance(first, (int, float)):
        mean = float(np.mean(values))
        return round(mean) if isinstance(first, int) else mean
    raise UserError(f"the seeds cannot be averaged: one has {first}, another {values[-1]}")


def mean_array(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of arrays, without what is NaN; arrays of different lengths joined."""
    if len({value.shape for value in values}) > 1:
        return np.concatenate(values)
    stack = np.stack(values).astype(float)
    known = ~np.isnan(stack)
    with np.errstate(invalid="ignore"):  # NaN in all of them stays NaN
        return np.where(known, stack, 0).sum(0) / known.sum(0)


def mean_headlines(of_seeds: Sequence[dict[str, float]], of_mean: dict[str, float]) -> list[tuple[str, float]]:
    """Numbers by name of each seed, and of the mean, which has the intervals -> mean ± std over seeds.

    A number that some seeds lack says of how many it is.
    """
    found: list[tuple[str, float]] = []
    for what in dict.fromkeys(what for numbers in of_seeds for what in numbers):
        values = [numbers[what] for numbers in of_seeds if what in numbers]
        mean, std = mean_std(values)
        name = what if len(values) == len(of_seeds) else f"{what} ({len(values)} of {len(of_seeds)} seeds)"
        if all(isinstance(value, int) and value == values[0] for value in values):
            found.append((name, values[0]))
        else:
            interval = getattr(of_mean.get(what), "interval", None)
            found.append((name, Estimate(mean, interval, std if len(values) > 1 else None)))
    return found


def stacked(arrays: Sequence[dict[str, np.ndarray]], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Arrays by name of each seed, stacked along a new first axis; names are kept once, other shapes by seed."""
    found = {}
    for name, first in arrays[0].items():
        values = [of_seed[name] for of_seed in arrays]
        if first.dtype.kind in "US" and all(np.array_equal(value, first) for value in values):
            found[name] = first
        elif all(value.shape == first.shape for value in values):
            found[name] = np.stack(values)
        else:
            found.update({f"{name}, seed {seed}": value for seed, value in zip(seeds, values)})
    return found


@theme()
def add_bands(figure: Figure, of_seeds: Sequence[Figure]) -> None:
    """Turn each line of `figure` that differs between the same figure of several seeds into their mean with a band."""
    for ax, *others in zip(axes_of(figure), *map(axes_of, of_seeds)):
        for line, *same in zip(list(ax.lines), *(list(other.lines) for other in others)):
            x = np.asarray(line.get_xdata(), float)
            drawn = line.get_linestyle() != "None" and all(np.array_equal(x, other.get_xdata()) for other in same)
            if not drawn:  # dots, or a vertical line
                continue
            y = np.stack([np.asarray(other.get_ydata(), float) for other in same])
            if y.std(0).any():
                line.set_ydata(y.mean(0))
                low, high = y.mean(0) - y.std(0), y.mean(0) + y.std(0)
                ax.fill_between(x, low, high, color=line.get_color(), alpha=0.25, linewidth=0)


def axes_of(figure: Figure) -> Iterator[Axes]:
    """All axes, insets included."""
    for ax in figure.axes:
        yield ax
        yield from (inset for inset in ax.child_axes if isinstance(inset, Axes))
