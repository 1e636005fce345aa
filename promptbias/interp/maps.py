"""Maps over the patches of an image: [cls] attention and similarity to prompts (section 3.3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from promptbias.model.tuned_clip import TunedCLIP

from .token_layout import vision_columns


def cls_attention(A: Tensor, model: TunedCLIP, heads: Sequence[int]) -> Tensor:
    """Mean over `heads` (from 0) of the attention of [cls] on the patches: (B, H, N, N) -> (B, M)."""
    return A[:, heads, 0, vision_columns(model)["patches"]].mean(1)


def prompt_distances(x: Tensor, model: TunedCLIP) -> Tensor:
    """Euclidean distance of each prompt to each patch in a block's input: (B, N, D) -> (B, V, M)."""
    columns = vision_columns(model)
    return torch.cdist(x[:, columns["prompts"]].float(), x[:, columns["patches"]].float())


def upsample(maps: Tensor, size: int) -> Tensor:
    """Maps over a square grid of patches, (..., M) -> (..., size, size), bilinear."""
    side = int(maps.shape[-1] ** 0.5)
    grid = maps.reshape(-1, 1, side, side)
    large = F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)
    return large.reshape(*maps.shape[:-1], size, size)


def min_max(maps: Tensor) -> Tensor:
    """Each map (..., S, S) scaled to 0-1; a constant one becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
