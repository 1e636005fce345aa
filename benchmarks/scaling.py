"""How our time and memory grow with classes, batch and number of images, and that they do not grow with steps."""

from statistics import median

import numpy as np

from promptbias.analysis import figures
from promptbias.model.precision import resolve_precision

from .cases import SCALING, STEPS, Case
from .workers import Worker

REPETITIONS = 30  # of one step
QUICK_LIMIT = 1000  # the most classes, and the most images, of a quick measurement


def measure(case: Case, precision: str, device: str, threads: int, runs: int) -> dict[str, list[float]]:
    """Seconds of each run after the first, and peak memory in GiB after the first run and after the last.

    Where the first run takes more than a minute it is the only one, and counts.
    """
    with Worker(case, precision, device, threads) as worker:
        worker.run()
        slow, first = worker.seconds[0] > 60, worker.memory
        for _ in range(0 if slow else runs):
            worker.run()
    seconds = worker.seconds if slow else worker.seconds[1:]
    return {"seconds": seconds, "GiB": [first / 2**30, worker.memory / 2**30]}


def measure_all(precision: str, device: str, threads: int, quick: bool) -> dict[str, np.ndarray]:
    """x axis of SCALING -> rows of (x, seconds, peak GiB); printed as they come."""
    found = {}
    for x_axis, cases in SCALING.items():
        points = []
        for x, case in cases.items():
            if quick and x > QUICK_LIMIT:
                continue
            measured = measure(case, precision, device, threads, runs=3)
            points.append([x, median(measured["seconds"]), measured["GiB"][1]])
            print(f"{x:,} {x_axis}: {points[-1][1]:.2f} s, peak {points[-1][2]:.2f} GiB", flush=True)
        found[x_axis] = np.array(points)
    return found


@figures.theme()
def plot(measured: dict[str, np.ndarray]):
    """A column for each x axis: time above, peak memory below."""
    figure, axes = figures.subplots(2, len(measured), sharex="col")
    for column, (x_axis, points) in zip(axes.T, measured.items()):
        x = points[:, 0]
        for axis, values, label in zip(column, points.T[1:], ("time (s)", "peak memory (GiB)")):
            axis.plot(x, values, **figures.style(0))
            axis.set(xscale="log", ylabel=label)
            axis.set_xticks(x, [f"{value / 1000:g}k" if value >= 1000 else f"{value:g}" for value in x])
            axis.minorticks_off()
        name, _, work = x_axis.partition(" (")
        column[0].set(yscale="log", title=work.rstrip(")").replace(", batches", ",\nbatches"))
        column[1].set(ylim=(0, None), xlabel=name)
    return figure


def run(folder: str, device: str, threads: int, quick: bool) -> None:
    """Measure, print, plot and save."""
    precision = resolve_precision("auto", device)
    measured = measure_all(precision, device, threads, quick)
    steps = measure(STEPS, precision, device, threads, REPETITIONS)
    third = REPETITIONS // 3
    early, late = (median(steps["seconds"][part]) for part in (slice(third), slice(-third, None)))
    headlines = [
        (f"a step, median of the first {third} (s)", early),
        (f"a step, median of the last {third} of {REPETITIONS} (s)", late),
        ("peak memory after the first step (GiB)", steps["GiB"][0]),
        ("peak memory after the last (GiB)", steps["GiB"][1]),
    ]
    for name, value in headlines:
        print(f"{name}: {value:.2f}")
    arrays = {**measured, "steps": np.array(steps["seconds"])}
    result = figures.Result(f"Medians of three, in {precision}.", headlines, {"scaling": plot(measured)}, arrays)
    print("written:", *figures.save(result, folder, "scaling"), sep="\n  ")
