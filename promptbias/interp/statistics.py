"""Means over a test set that never hold more than one batch."""

from collections.abc import Callable, Hashable, Iterable

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from promptbias.model.hooks import Point
from promptbias.model.tuned_clip import TunedCLIP

from .cache import PATTERN

Name = Hashable


class Means:
    """Running means by name, summed in float64, over samples that come in batches.

    >>> means = Means()
    >>> means.add("x", torch.tensor([1.0, 2.0])); means.add("x", torch.tensor([6.0]))
    >>> float(means["x"])
    3.0
    """

    def __init__(self) -> None:
        self.sums: dict[Name, np.ndarray] = {}
        self.counts: dict[Name, int] = {}

    def add(self, name: Name, values: Tensor) -> None:
        """Values (B, ...) of B samples."""
        total = values.detach().double().sum(0).cpu().numpy()
        self.sums[name] = self.sums.get(name, 0) + total
        self.counts[name] = self.counts.get(name, 0) + len(values)

    def __getitem__(self, name: Name) -> np.ndarray:
        """The mean, (...)."""
        return self.sums[name] / self.counts[name]


def attention_means(
    model: TunedCLIP, images: Iterable[Tensor], measures: dict[Name, Callable[[Tensor], Tensor]]
) -> dict[Name, np.ndarray]:
    """Means over images of what each measure makes of the attention of the vision branch.

    Args:
        images: batches (B, 3, S, S).
        measures: name -> function from attention patterns (B, H, N, N) to (B, H).

    Returns:
        Name -> (L, H).
    """
    means = Means()

    def measure_all(pattern: Tensor, point: Point) -> None:
        for name, measure in measures.items():
            means.add((name, point.block), measure(pattern))

    with torch.no_grad(), model.vision.hooked({f"blocks.*.{PATTERN}": measure_all}):
        for image in images:
            model.image_features(image)
    return {name: np.stack([means[name, i] for i in range(len(model.vision.blocks))]) for name in measures}


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation over the last axis, (..., N) and (..., N) -> (...); 0 where either is constant."""
    a, b = (x.double() - x.double().mean(-1, keepdim=True) for x in (a, b))
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return (a * b).sum(-1) / scale.clamp(min=torch.finfo(scale.dtype).tiny)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation over the last axis, equal values at their mean rank."""
    return correlation(*(torch.from_numpy(rankdata(x.cpu().numpy(), axis=-1)) for x in (a, b)))


def column_masks(columns: list[dict[str, slice]], length: int) -> dict[str, Tensor]:
    """Named column ranges of B samples as masks: name -> (B, length), 1 in the range."""
    masks = {name: torch.zeros(len(columns), length) for name in columns[0]}
    for b, ranges in enumerate(columns):
        for name, columns_of in ranges.items():
            masks[name][b, columns_of] = 1
    return masks
