"""How our training step grows with classes and images, and that it does not grow with steps."""
import json
import os

import matplotlib

from trainers.files import writing
from trainers.tuned_clip import resolve_precision

from .cases import Case
from .measure import Side

CLASSES = (10, 100, 1000, 5000, 20000)
IMAGES = (1, 4, 16, 32, 64)
STEPS = 30


def measure(case: Case, precision: str, device: str, threads: int, runs: int):
    """Seconds of each run (the first left out) and the peak memory in GiB after the first and after the last."""
    side = Side(case, precision, device, threads)
    try:
        side.run()
        first = side.ask("memory")
        for _ in range(runs):
            side.run()
        return {"seconds": side.seconds[1:], "median": sorted(side.seconds[1:])[runs // 2],
                "GiB": [first / 2**30, side.ask("memory") / 2**30]}
    finally:
        side.close()


def draw(path: str, device: str, threads: int, quick: bool) -> None:
    """Measure, print, and draw time and memory over classes (with 4 images) and over images (with 10 classes)."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    precision = resolve_precision("auto", device)
    largest = 1000 if quick else max(CLASSES)
    found = {
        "classes, 4 images": {k: measure(Case("train", "BiasTuning", k, 4, 4), precision, device, threads, 3)
                              for k in CLASSES if k <= largest},
        "images, 10 classes": {b: measure(Case("train", "BiasTuning", 10, b, b), precision, device, threads, 3)
                               for b in IMAGES if not quick or b <= 16},
        "steps, 10 classes, 4 images": {STEPS: measure(Case("train", "BiasTuning", 10, 4, 4), precision, device, threads, STEPS)},
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), constrained_layout=True)
    for axis, (what, points) in zip(axes, found.items()):
        memory = axis.twinx()
        axis.plot(list(points), [p["median"] for p in points.values()], "o-", color="tab:blue", label="time")
        memory.plot(list(points), [p["GiB"][1] for p in points.values()], "s--", color="tab:red", label="memory")
        axis.set(xlabel=what, ylabel="training step (s)", xscale="log", yscale="log")
        memory.set(ylabel="peak memory (GiB)", ylim=(0, None))
        axis.legend(handles=[*axis.lines, *memory.lines], loc="upper left")
    figure.savefig(path, dpi=100)
    with writing(os.path.splitext(path)[0] + ".json") as file:
        json.dump({"precision": precision, **found}, file, indent=1)
    for what, points in found.items():
        for n, point in points.items():
            print(f'{n} {what}: {point["median"]:.2f} s, peak {point["GiB"][0]:.2f} GiB after one step, '
                  f'{point["GiB"][1]:.2f} GiB at the end')
