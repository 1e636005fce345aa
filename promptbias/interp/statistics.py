"""Means over a test set that never hold more than one batch, and correlations."""

from collections.abc import Hashable

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

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

    def __contains__(self, name: Name) -> bool:
        return name in self.sums

    def stacked(self, name: Name, blocks: int) -> np.ndarray:
        """The means of (name, 0), ..., (name, blocks - 1), (blocks, ...)."""
        return np.stack([self[name, i] for i in range(blocks)])


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
