"""How many images each figure of a report is made from, and how long it will take, roughly.

Costs are in passes: one forward pass of every model of the comparison for one image, or for one class. They were
measured with three models and are rough; a figure that looks into attention costs more than its passes alone.
"""

import time
from typing import NamedTuple

import torch

from promptbias.interp.branches import TextBranch

from .comparison import Comparison, ComparisonOverSeeds

FEW_SHOT = 1000  # training images of a figure, at most, evenly over the classes
DRAWING = 2.5  # seconds to draw and write the files of a figure
MEASURED = 8  # images and classes that a pass is measured with


class Cost(NamedTuple):
    """What a figure takes.

    Attributes:
        images: passes for each test image.
        few_shot: passes for each few-shot training image.
        classes: passes for each class.
        samples: test images without --samples, at most.
    """

    images: float = 0.0
    few_shot: float = 0.0
    classes: float = 0.0
    samples: int = 1000


COSTS: dict[str, Cost] = {
    "contribution": Cost(6),
    "eos-attention": Cost(classes=1),
    "distance": Cost(1.5),
    "entropy": Cost(2.5),
    "heatmap": Cost(3, samples=500),
    "sinks": Cost(3, classes=2),
    "decompose": Cost(3.5, classes=1, samples=500),
    "ablations": Cost(7, 1, classes=6),
    "controls": Cost(24, 1, classes=24, samples=500),
    "constancy": Cost(1, classes=1),
    "mean-to-bias": Cost(2, 1, classes=1),
    "dose": Cost(10, classes=6),
    "feature-shift": Cost(2, 2),
    "foreground": Cost(5),
    "faithfulness": Cost(27, samples=200),
}
OTHERWISE = Cost()


def most_samples(name: str) -> int:
    """Test images that a figure is made from without --samples, at most."""
    return COSTS.get(name, OTHERWISE).samples


def seconds_of(comparison: Comparison, counts: dict[str, int]) -> dict[str, float]:
    """Seconds that each figure will take, roughly, from how many test images."""
    of_image, of_class = seconds_per_image(comparison), seconds_per_class(comparison)
    few_shot = min(FEW_SHOT, len(comparison.few_shot))
    seeds = len(comparison.seeds) if isinstance(comparison, ComparisonOverSeeds) else 1
    seconds = {}
    for name, count in counts.items():
        cost = COSTS.get(name, OTHERWISE)
        images = cost.images * count + cost.few_shot * few_shot
        passes = of_image * images + of_class * cost.classes * len(comparison.classnames)
        seconds[name] = seeds * (passes + DRAWING)
    return seconds


@torch.no_grad()
def seconds_per_image(comparison: Comparison) -> float:
    """The time of a forward pass of all models for one image, from a small batch; the first one warms up."""
    batch = torch.cat([comparison.image(comparison.indices[0])[0]] * MEASURED)

    def run() -> None:
        for model in comparison.models.values():
            model.image_features(batch).sum().item()

    return shortest(run) / MEASURED


@torch.no_grad()
def seconds_per_class(comparison: Comparison) -> float:
    """The same for one class, with a look at attention, as figures have it."""
    which = torch.arange(min(MEASURED, len(comparison.classnames)), device=comparison.device)

    def run() -> None:
        for model in comparison.models.values():
            TextBranch(model).features(which, lambda i, parts: None).sum().item()

    return shortest(run) / len(which)


def shortest(run, times: int = 3) -> float:
    """Seconds of the fastest of a few runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def duration(seconds: float) -> str:
    """
    >>> duration(7.4), duration(150), duration(9000)
    ('7 s', '2.5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
