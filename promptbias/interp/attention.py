"""Statistics of attention patterns: distance, entropy, and where EOS attends (sections 3.3.1 and 3.3.2).

Patterns A are (B, H, N, N), after softmax; `token_layout` tells which rows and columns are which tokens.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.special import entr

from promptbias.model.hooks import Point
from promptbias.model.tuned_clip import TunedCLIP

from .cache import PATTERN
from .statistics import Means, column_masks
from .token_layout import text_columns

Key = TypeVar("Key", bound=Hashable)


def attention_means(
    model: TunedCLIP, images: Iterable[Tensor], measures: Mapping[Key, Callable[[Tensor], Tensor]]
) -> dict[Key, np.ndarray]:
    """Means over images of each measure of the vision branch's attention.

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
    return {name: means.stacked(name, len(model.vision.blocks)) for name in measures}


def attention_entropy(A: Tensor, queries: slice, keys: slice) -> Tensor:
    """Mean over `queries` of the entropy, in nats, of attention renormalised among `keys`: (B, H, N, N) -> (B, H)."""
    a = A[:, :, queries, keys]
    return entr(a / a.sum(-1, keepdim=True)).sum(-1).mean(-1)


def pixel_distances(side: int, patch: float) -> Tensor:
    """Distances between the centres of the patches of a square grid, row by row: (side², side²), in pixels.

    Args:
        side: patches along one side of the image.
        patch: width of a patch in pixels.
    """
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centres = patch * torch.stack([y, x], -1).reshape(-1, 2).float()
    return torch.cdist(centres, centres)


def attention_distance(A: Tensor, distances: Tensor, prompts: slice | None = None) -> Tensor:
    """Mean over query patches of Σ a d / Σ a over key patches: (B, H, N, N) -> (B, H), in pixels.

    Args:
        distances: (M, M) between patches, whose rows and columns are 1 to M.
        prompts: columns whose attention is added to the denominator, as if at distance 0.
    """
    patches = slice(1, 1 + len(distances))
    rows = A[:, :, patches]
    total = rows[..., patches].sum(-1)
    if prompts is not None:
        total = total + rows[..., prompts].sum(-1)
    return ((rows[..., patches] * distances).sum(-1) / total).mean(-1)


def eos_attention(model: TunedCLIP, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Attention mass of EOS on each kind of token in the text branch, mean over classes.

    Args:
        batch_size: classes per forward pass (does not affect results).

    Returns:
        Name as in `text_columns` -> (L, H).
    """
    means = Means()
    classes = torch.arange(len(model.text.tokens), device=model.text.tokens.device)
    for which in classes.split(batch_size):
        columns = [text_columns(model, k) for k in which.tolist()]
        eos = torch.tensor([ranges["EOS"].start for ranges in columns])

        def measure(A: Tensor, point: Point, columns=columns, eos=eos) -> None:
            row = A[torch.arange(len(A)), :, eos]  # (B, H, N)
            for name, mask in column_masks(columns, A.shape[-1]).items():
                means.add((name, point.block), (row * mask.to(row.device)[:, None]).sum(-1))

        with torch.no_grad(), model.text.hooked({f"blocks.*.{PATTERN}": measure}):
            model.text_features(which)
    return {name: means.stacked(name, len(model.text.blocks)) for name in text_columns(model, 0)}
