"""Attention sinks: which tokens receive attention, how long their values are, and how many directions prompts add.

A sink receives much attention and gives little: its value is short. Shapes: B samples, H heads, L blocks, N tokens,
d = D / H.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.special import entr

from promptbias.model.tuned_clip import TunedCLIP

from .branches import Branch, VisionBranch
from .cache import PATTERN, capture
from .decomposition import AttentionParts
from .prompt_term import RowStatistics
from .statistics import Means, column_masks
from .token_layout import text_columns, vision_columns

VALUE = "attn.v"
RECEIVED, LENGTH = "attention received", "length of the value"
MOST = "patch that receives most"


def columns_of(model: TunedCLIP, branch: Branch, batch: Tensor) -> list[dict[str, slice]]:
    """Kind of token -> its columns, for each sample of a batch; only kinds that every sample has."""
    if isinstance(branch, VisionBranch):
        columns = [vision_columns(model)] * len(batch)
    else:
        columns = [text_columns(model, k) for k in batch.tolist()]
    kinds = [kind for kind in columns[0] if all(ranges[kind].start < ranges[kind].stop for ranges in columns)]
    return [{kind: ranges[kind] for kind in kinds} for ranges in columns]


@torch.no_grad()
def sinks(model: TunedCLIP, branch: Branch, batches: Iterable[Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """What the tokens of each kind receive and give, means over tokens, heads and samples.

    What a token receives is a mean over the queries that can attend to it (`attending`). In the vision branch MOST is
    the one patch of each image that receives most, in each block.

    Args:
        batches: of the branch (`Branch.inputs`).

    Returns:
        RECEIVED (share of a query's attention that one token receives) and LENGTH (of a head's value) -> kind -> (L,).
    """
    means, blocks = Means(), range(len(branch.tower.blocks))
    for batch in batches:
        with capture(branch.tower, f"blocks.*.{PATTERN}", f"blocks.*.{VALUE}") as cache:
            branch.forward(batch, branch.adapter)
        patterns, values = cache.by_block(PATTERN), cache.by_block(VALUE)
        columns = columns_of(model, branch, batch)
        masks = {kind: mask.to(batch.device) for kind, mask in column_masks(columns, patterns[0].shape[-1]).items()}
        sees = attending(masks, branch.causal)
        for i in blocks:
            received = (patterns[i].mean(1) * sees).sum(1) / sees.sum(1).clamp(min=1)  # (B, N)
            length = values[i].unflatten(-1, (branch.tower.heads, -1)).float().norm(dim=-1).mean(-1)  # (B, N)
            for kind, mask in masks.items():
                for name, of_token in ((RECEIVED, received), (LENGTH, length)):
                    means.add((name, kind, i), (of_token * mask).sum(-1) / mask.sum(-1))
            if "patches" in masks:
                of_patches = received.masked_fill(masks["patches"] == 0, -1)
                most, at = of_patches.max(-1)
                means.add((RECEIVED, MOST, i), most)
                means.add((LENGTH, MOST, i), length.gather(1, at[:, None])[:, 0])
    kinds = [*masks, *([MOST] if "patches" in masks else [])]
    return {
        name: {kind: np.stack([means[name, kind, i] for i in blocks]) for kind in kinds} for name in (RECEIVED, LENGTH)
    }


def attending(masks: dict[str, Tensor], causal: bool) -> Tensor:
    """Which queries count for which tokens, (B, N, N), 1 or 0.

    Prompts and padding are no queries, and neither is the first token under a causal mask, which sees only itself.

    Args:
        masks: kind -> (B, N), 1 at its tokens.
    """
    queries = torch.stack([mask for kind, mask in masks.items() if kind != "prompts"]).sum(0)
    sees = queries[:, :, None].expand(-1, -1, queries.shape[1])
    if not causal:
        return sees
    sees = sees.tril().clone()
    sees[:, 0] = 0
    return sees


class UpdateRank(RowStatistics):
    """How many directions the prompts' update u has in each head, over the rows of the first set.

    Attributes:
        gram: (H, d, d) per block, the sum of u uᵀ, float64.
    """

    def __init__(self, branch: Branch) -> None:
        super().__init__(branch)
        self.gram: list[Tensor | float] = [0.0] * len(branch.tower.blocks)

    def on_parts(self, i: int, parts: AttentionParts) -> None:
        u = parts.u.double()
        self.gram[i] = self.gram[i] + torch.einsum("bn,bhnc,bhnd->hcd", self.masks[0].double(), u, u)

    def effective_rank(self) -> np.ndarray:
        """exp of the entropy of the shares λ / Σ λ of the eigenvalues of E u uᵀ, (L, H); NaN where u is always 0.

        It is 1 if all u lie on one line, and k if they spread evenly over k directions. With V prompts in a block u is
        a weighted sum of their V values. If these are the same for all samples, as those of a block's own prompts are,
        it is at most V, and exactly 1 for one prompt.
        """
        eigenvalues = torch.linalg.eigvalsh(torch.stack([torch.as_tensor(gram) for gram in self.gram])).clamp(min=0)
        return entr(eigenvalues / eigenvalues.sum(-1, keepdim=True)).sum(-1).exp().cpu().numpy()
