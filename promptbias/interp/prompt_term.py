"""Statistics of the decomposed attention: how much of each update comes from the prompts, and how constant that is.

Both stream over batches and keep sums in float64. Shapes as in `decomposition`; S = 2 sets of rows (see
`Branch.row_masks`).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from promptbias.model.encoder import join_heads

from .branches import BASE, Branch
from .decomposition import AttentionParts

if TYPE_CHECKING:
    from typing_extensions import Self


class RowStatistics:
    """Sums over the rows of each set, streamed over batches.

    Attributes:
        masks: (S, B, n), the rows of the batch at hand.
        count: (S,), rows seen.
    """

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self.count: Any = 0

    def stream(self, batches: Iterable[Tensor]) -> "Self":
        """Add batches of the branch (`Branch.inputs`)."""
        for batch in batches:
            self.begin(batch)
            self.branch.features(batch, self.on_parts)
        return self

    def begin(self, batch: Tensor) -> None:
        """Called before each batch."""
        self.masks = self.branch.row_masks(batch)
        self.count = self.count + self.masks.sum((1, 2)).double()

    def on_parts(self, i: int, parts: AttentionParts) -> None:
        """Called with the parts of each block and batch."""
        raise NotImplementedError

    def project(self, i: int, gathered: Tensor) -> Tensor:
        """(..., D) before W_O of block i -> after it, without b_O."""
        return gathered @ self.branch.output_weight(i).to(gathered.dtype).T


class PromptShares(RowStatistics):
    """How much of each block's and head's update comes from the prompts.

    Sums over the rows of the sets, each (L, S, H) or, for a block as a whole, (L, S, 1):
        prompt_mass: π, attention mass on the prompts.
        head: |u W_h| / (|u W_h| + |(1 - π) a v W_h|), with the head's own rows W_h of W_O.
        block: the same with the heads summed.
        moved: total variation 1/2 Σ |a - a of the base model|: the attention among inputs that went elsewhere.

    Attributes:
        error: largest |update - sum of its parts|, relative to the largest update.
    """

    NAMES = ("prompt_mass", "head", "block", "moved")

    def __init__(self, branch: Branch) -> None:
        super().__init__(branch)
        self.sums: dict[str, list[Any]] = {name: [0.0] * len(branch.tower.blocks) for name in self.NAMES}
        self.error = 0.0

    def begin(self, batch: Tensor) -> None:
        super().begin(batch)
        self.base = self.branch.attention_among_inputs(batch, BASE)

    def on_parts(self, i: int, parts: AttentionParts) -> None:
        own = (1 - parts.prompt_mass) * (parts.a @ parts.v)
        W = self.branch.output_weight(i)  # (D, D)
        heads = W.unflatten(1, (own.shape[1], -1)).permute(1, 2, 0)  # (H, d, D)
        gram = heads @ heads.transpose(1, 2)  # |x W_h|^2 = x (W_h W_h^T) x^T needs no (B, H, n, D)
        of_head = [((x @ gram) * x).sum(-1).clamp(min=0).sqrt() for x in (parts.u, own)]  # (B, H, n)
        of_block = [(join_heads(x) @ W.T).norm(dim=-1)[:, None] for x in (parts.u, own)]  # (B, 1, n)
        self.add("prompt_mass", i, parts.prompt_mass[..., 0])
        self.add("head", i, of_head[0] / (of_head[0] + of_head[1]))
        self.add("block", i, of_block[0] / (of_block[0] + of_block[1]))
        self.add("moved", i, (parts.a - self.base[i]).abs().sum(-1) / 2)
        self.error = max(self.error, float((own + parts.u - parts.full).abs().max() / parts.full.abs().max()))

    def add(self, name: str, i: int, values: Tensor) -> None:
        """values (B, H, n) of block i."""
        self.sums[name][i] = self.sums[name][i] + torch.einsum("sbn,bhn->sh", self.masks, values).double()

    def means(self) -> dict[str, Tensor]:
        """(L, S, H) each, (L, S, 1) for `block`."""
        return {name: torch.stack(sums) / self.count[:, None] for name, sums in self.sums.items()}


class PromptTerm(RowStatistics):
    """The mean of u and the mean of |u W_O|² over the rows of each set.

    Attributes:
        sum: (S, D) per block, of u with its heads side by side, before W_O (which is linear).
        square: (S,) per block, of |u W_O|².
    """

    def __init__(self, branch: Branch) -> None:
        super().__init__(branch)
        self.sum: list[Any] = [0.0] * len(branch.tower.blocks)
        self.square: list[Any] = [0.0] * len(branch.tower.blocks)

    def on_parts(self, i: int, parts: AttentionParts) -> None:
        u = join_heads(parts.u)  # (B, n, D)
        self.sum[i] = self.sum[i] + torch.einsum("sbn,bnc->sc", self.masks, u).double()
        squares = self.project(i, u).square().sum(-1)  # (B, n)
        self.square[i] = self.square[i] + torch.einsum("sbn,bn->s", self.masks, squares).double()

    def mean_u(self) -> Tensor:
        """E u over the first set, before W_O, heads side by side: (L, D), float32."""
        return torch.stack([total[0] / self.count[0] for total in self.sum]).float()

    def bias(self) -> Tensor:
        """m = E u W_O over the first set: (L, D), float32."""
        return torch.stack([self.project(i, m) for i, m in enumerate(self.mean_u().double())]).float()

    def squared_lengths(self) -> tuple[Tensor, Tensor]:
        """|E u|² and E |u|², after W_O: (L, S) each, float64."""
        means = [self.project(i, total / self.count[:, None]) for i, total in enumerate(self.sum)]
        return torch.stack([m.square().sum(-1) for m in means]), torch.stack(self.square) / self.count

    def constancy(self) -> Tensor:
        """|E u|² / E |u|², (L, S): 1 if u is a bias, 1/n if n rows have nothing in common; NaN where u is always 0."""
        of_mean, mean = self.squared_lengths()
        return of_mean / mean
