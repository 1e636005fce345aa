"""How much of a map over the patches lies on the foreground: share, pointing game, average precision."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = 0.5  # a patch of which more is foreground counts as foreground where patches are counted


class Agreement(NamedTuple):
    """How maps agree with the foreground; NaN for an empty map, or an image that `shows_both` is false for.

    Attributes:
        share: of the map's sum that lies on the foreground, in [0, 1]. A uniform map has the foreground's area.
        pointing: whether the map's maximum is a foreground patch, 0 or 1 (Zhang et al., 2018, on patches).
        precision: average precision of the map as a ranking of patches, foreground ones being relevant. A constant map
            has the fraction of foreground patches.
    """

    share: Tensor
    pointing: Tensor
    precision: Tensor


def patch_foreground(masks: Tensor, side: int) -> Tensor:
    """The foreground fraction of each patch: masks (B, S, S) in [0, 1] -> (B, side * side)."""
    return F.adaptive_avg_pool2d(masks[:, None], side)[:, 0].flatten(1)


def shows_both(foreground: Tensor) -> Tensor:
    """Which images have both foreground and background patches, (B,), from the fractions (B, M) of their patches."""
    relevant = foreground > HALF
    return relevant.any(-1) & ~relevant.all(-1)


def share_inside(maps: Tensor, foreground: Tensor) -> Tensor:
    """The share of each map (B, ..., M), not negative, that lies on the foreground (B, M): (B, ...).

    NaN if a map is empty, or if its image does not show both foreground and background.
    """
    middle = [1] * (maps.ndim - 2)
    shares = (maps * foreground.view(len(maps), *middle, maps.shape[-1])).sum(-1) / maps.sum(-1)
    return torch.where(shows_both(foreground).view(len(maps), *middle), shares, torch.nan)


def agreement(maps: Tensor, foreground: Tensor) -> Agreement:
    """Maps (B, M), not negative, against the foreground fractions (B, M) of their patches: (B,) each."""
    relevant = foreground > HALF
    known = (maps.sum(-1) > 0) & shows_both(foreground)
    found = (
        share_inside(maps, foreground),
        relevant.gather(-1, maps.argmax(-1, keepdim=True))[:, 0].double(),
        torch.tensor([average_precision(*pair) for pair in zip(maps.cpu(), relevant.cpu())]),
    )
    return Agreement(*(torch.where(known.cpu(), values.double().cpu(), torch.nan) for values in found))


def average_precision(scores: Tensor, relevant: Tensor) -> float:
    """Of a ranking (M,) with ties, scikit-learn's; NaN if nothing is relevant."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(relevant.numpy(), scores.numpy())) if relevant.any() else float("nan")
