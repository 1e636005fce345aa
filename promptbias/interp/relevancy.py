"""Relevancy of patches, text tokens and prompts for the alignment of image and text (section 3.2.2, eqs. 13-16)."""

from typing import NamedTuple

import torch
from torch import Tensor

from promptbias.model.adapter import Adapter
from promptbias.model.tuned_clip import TunedCLIP

from .cache import PATTERN, ActivationCache, capture, gradients


class Relevancy(NamedTuple):
    """Relevancy of the tokens of B image-text pairs, not normalised (see `shares`).

    Attributes:
        vision: (B, M + V), row [cls] of R at patches and prompts, without its own column.
        text: (B, N), row EOS of R, 0 from the column of EOS on.
    """

    vision: Tensor
    text: Tensor


def relevancy(model: TunedCLIP, image: Tensor, label: Tensor, first_block: int = 0) -> Relevancy:
    """Relevancy of each patch, word and prompt for the score y = τ cos(f, g) of images with the texts of their classes.

    R_0 = I; in each block Ā = mean over heads of (∂y/∂A ⊙ A)⁺ and R <- R + Ā R (Chefer et al., 2021). One backward pass
    serves both branches and all pairs: pairs do not depend on each other, so the gradient of the sum of their y is each
    one's own. The text is encoded for each pair and not for each class, since (·)⁺ is not linear.

    Deep prompts are discarded after their block, so a prompt's column sums the contributions of that position's prompts
    over all blocks.

    Args:
        image: (B, 3, S, S).
        label: (B,) indices of the classes; usually each image's own, but any class will do.
        first_block: the block (from 0) at which R starts as I.
    """
    vision, text = model.vision, model.text
    patterns = [[f"blocks.{i}.{PATTERN}" for i in range(first_block, len(tower.blocks))] for tower in (vision, text)]
    with (
        capture(vision, *patterns[0], gradient=True) as cache_v,
        capture(text, *patterns[1], gradient=True) as cache_t,
    ):
        cosine = (model.image_features(image) * model.text_features(label)).sum(-1)
        gradient_v, gradient_t = gradients((model.logit_scale * cosine).sum(), cache_v, cache_t)
    with torch.no_grad():
        eos = text.tokens[label].argmax(-1)
        maps_t = head_means(cache_t, gradient_t, model.adapters.text)
        row_eos = row_of_product(maps_t, eos)
        before_eos = torch.arange(row_eos.shape[1], device=eos.device) < eos[:, None]
        return Relevancy(row_of_cls(model, cache_v, gradient_v), row_eos * before_eos)


def row_of_cls(model: TunedCLIP, attention: ActivationCache, gradient: ActivationCache) -> Tensor:
    """Row [cls] of R at patches and prompts, (B, M + V), from attention patterns of the vision branch and ∂y/∂A."""
    maps = head_means(attention, gradient, model.adapters.vision)
    cls = torch.zeros(len(maps[0]), dtype=torch.long, device=maps[0].device)
    return row_of_product(maps, cls)[:, 1:]


def head_means(attention: ActivationCache, gradient: ActivationCache, adapter: Adapter) -> list[Tensor]:
    """Ā (eq. 14) of each block in order: (B, N, N) from attention patterns and their gradients (B, H, N, N)."""
    maps = []
    gradient_of_block = gradient.by_block(PATTERN)
    for i, A in attention.by_block(PATTERN).items():
        Abar = (gradient_of_block[i] * A).clamp_(min=0).mean(1)
        # This block's outputs at its prompts are replaced before the next: their rows of R stay those of the identity.
        assert i + 1 >= adapter.prompt_depth or not Abar[:, adapter.prompts_at].any()
        maps.append(Abar)
    return maps


def row_of_product(maps: list[Tensor], row: Tensor) -> Tensor:
    """Row `row` (B,) of R = (I + Ā_L) ... (I + Ā_1) (eqs. 15 and 16) from the Ā (B, N, N) of blocks 1 to L: (B, N).

    Only this row is needed, so it is carried from the last block to the first, and R is never built.
    """
    B, N, _ = maps[0].shape
    r = torch.zeros(B, 1, N, device=row.device).scatter_(2, row[:, None, None], 1)
    for Abar in reversed(maps):
        r = r + r @ Abar
    return r[:, 0]


def shares(rows: Tensor) -> Tensor:
    """Rows (..., N) divided by their sums; a row of zeros stays zero."""
    return rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
