"""How our time and memory grow with classes, batch and number of images, and that they do not grow with steps."""

from statistics import median

import numpy as np

from promptbias.analysis import figures
from promptbias.model.tuned_clip import resolve_precision

from .cases import Case
from .measure import Side

STEPS = 30
SMALL = 1000  # the most classes, and the most images, of a quick measurement

# over what -> x -> what is done
CASES: dict[str, dict[int, Case]] = {
    "classes (training step, 4 images)": {
        k: Case("train", "BiasTuning", k, 4, 4) for k in (10, 100, 1000, 5000, 20000)
    },
    "images in a batch (training step, 10 classes)": {b: Case("train", "BiasTuning", 10, b, b) for b in (1, 4, 16, 64)},
    "images (evaluation, 10 classes, batches of 50)": {
        n: Case("evaluate", "BiasTuning", 10, n, 50) for n in (50, 100, 200, 400)
    },
}


def measure(case: Case, precision: str, device: str, threads: int, runs: int) -> dict[str, list[float]]:
    """Seconds of each run after the first (of the first, where it took a minute), and the peak memory in GiB after the first
    run and after the last."""
    with Side(case, precision, device, threads) as side:
        side.run()
        slow, first = side.seconds[0] > 60, side.memory
        for _ in range(0 if slow else runs):
            side.run()
    return {"seconds": side.seconds if slow else side.seconds[1:], "GiB": [first / 2**30, side.memory / 2**30]}


def draw(folder: str, device: str, threads: int, quick: bool) -> None:
    """Measure, print, and draw."""
    precision = resolve_precision("auto", device)
    figure, axes = figures.subplots(2, len(CASES), sharex="col")
    numbers: dict[str, np.ndarray] = {}
    for column, (over, cases) in zip(axes.T, CASES.items()):
        points = []
        for x, case in cases.items():
            if quick and x > SMALL:
                continue
            found = measure(case, precision, device, threads, runs=3)
            points.append([x, median(found["seconds"]), found["GiB"][1]])
            print(f"{x:,} {over}: {points[-1][1]:.2f} s, peak {points[-1][2]:.2f} GiB", flush=True)
        numbers[over] = np.array(points)
        for axis, values, label in zip(column, numbers[over].T[1:], ("time (s)", "peak memory (GiB)")):
            axis.plot(numbers[over][:, 0], values, **figures.look(0))
            axis.set(xscale="log", ylabel=label)
            axis.set_xticks(
                numbers[over][:, 0], [f"{x / 1000:g}k" if x >= 1000 else f"{x:g}" for x in numbers[over][:, 0]]
            )
            axis.minorticks_off()
        what, _, how = over.partition(" (")
        column[0].set(yscale="log", title=how.rstrip(")").replace(", batches", ",\nbatches"))
        column[1].set(ylim=(0, None), xlabel=what)
    found = measure(Case("train", "BiasTuning", 10, 4, 4), precision, device, threads, STEPS)
    numbers["steps"] = np.array(found["seconds"])
    third = STEPS // 3
    early, late = (median(found["seconds"][part]) for part in (slice(third), slice(-third, None)))
    headlines = [
        (f"a step, median of the first {third} (s)", early),
        (f"a step, median of the last {third} of {STEPS} (s)", late),
        ("peak memory after the first step (GiB)", found["GiB"][0]),
        ("peak memory after the last (GiB)", found["GiB"][1]),
    ]
    for what, value in headlines:
        print(f"{what}: {value:.2f}")
    result = figures.Result(f"Medians of three, in {precision}.", headlines, {"scaling": figure}, numbers)
    print("written:", *figures.save(result, folder, "scaling"), sep="\n  ")
