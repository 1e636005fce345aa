"""How many images each figure of a report is made from, and how long it will take, roughly.

Costs are in passes: one forward pass of every model that a figure shows, for one image or for one class. They were
measured on the tiny CLIP and are rough; a figure that looks into attention costs more than its passes alone.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptbias.interp.branches import TextBranch

from .commands import FIGURES
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
    "heatmap": Cost(4.5, samples=500),
    "sinks": Cost(4.5, classes=3),
    "decompose": Cost(5, classes=1.5, samples=500),
    "ablations": Cost(10, 1.5, classes=9),
    "controls": Cost(36, 1.5, classes=36, samples=500),
    "constancy": Cost(1.5, classes=1.5),
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
    of_images, of_classes = seconds_per_image(comparison), seconds_per_class(comparison)
    few_shot = min(FEW_SHOT, len(comparison.few_shot))
    seeds = len(comparison.seeds) if isinstance(comparison, ComparisonOverSeeds) else 1
    seconds = {}
    for name, count in counts.items():
        cost = COSTS.get(name, OTHERWISE)
        images = cost.images * count + cost.few_shot * few_shot
        shown = len(of_images) if FIGURES[name].shows_compared_runs else 2  # plain CLIP and the tuned run
        of_image, of_class = sum(of_images[:shown]), sum(of_classes[:shown])
        passes = of_image * images + of_class * cost.classes * len(comparison.classnames)
        seconds[name] = seeds * (passes + DRAWING)
    return seconds


@torch.no_grad()
def seconds_per_image(comparison: Comparison) -> list[float]:
    """The time of a forward pass of each model for one image, from a small batch; the first one warms up."""
    batch = torch.cat([comparison.image(comparison.indices[0])[0]] * MEASURED)
    return [
        shortest(lambda model: model.image_features(batch), model) / MEASURED for model in comparison.models.values()
    ]


@torch.no_grad()
def seconds_per_class(comparison: Comparison) -> list[float]:
    """The same for one class, with a look at attention, as figures have it."""
    which = torch.arange(min(MEASURED, len(comparison.classnames)), device=comparison.device)
    branches = map(TextBranch, comparison.models.values())
    return [
        shortest(lambda branch: branch.features(which, lambda i, parts: None), branch) / len(which)
        for branch in branches
    ]


def shortest(work: Callable[[Any], Tensor], of: object, times: int = 3) -> float:
    """Seconds of the fastest of a few runs, until their result is there."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work(of).sum().item()
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
