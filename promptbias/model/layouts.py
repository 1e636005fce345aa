"""How the sequences of a forward pass lie in memory, and what their rows attend to.

B sequences, K texts, N tokens, D width, H heads, d = D / H.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .prepacked_linear import EVERY

Rows = slice | Tensor


def causal_mask(rows: int, columns: int, like: Tensor) -> Tensor:
    """Additive mask (rows, columns): the rows are the last of the columns, and see themselves and what is before."""
    return like.new_full((rows, columns), -torch.inf).triu(columns - rows + 1)


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis, in the dtype of `scores`.

    On a CPU torch's kernel for bfloat16 takes what is left of a row after whole vectors one by one; that for float32
    does not, where a row fills a vector.
    """
    if scores.dtype == torch.bfloat16 and not scores.is_cuda and not scores.requires_grad and scores.shape[-1] >= 16:
        return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    return scores.softmax(-1)


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / √d) v over the last two axes; where `causal`, q are the last rows of the sequences of k and v.

    Torch's fused kernel keeps no pattern for backward. But on a CPU it is slower in bfloat16 than the products written
    out, in backward by far, and in every dtype on many short sequences; and before 2.0 torch has none.
    """
    fused = q.is_cuda and q.shape[-2] == k.shape[-2] if causal else q.is_cuda or q.dtype != torch.bfloat16
    if not fused or not hasattr(F, "scaled_dot_product_attention"):
        # Contiguous before it is transposed: the product would copy it column by column.
        scores = q * q.shape[-1] ** -0.5 @ k.contiguous().transpose(-1, -2)
        if causal:
            scores = scores + causal_mask(scores.shape[-2], scores.shape[-1], scores)
        return softmax(scores) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def attention_pattern(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d + mask), (B, H, N, N), in float32."""
    scores = q.float() * q.shape[-1] ** -0.5 @ k.float().transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1)


class PaddedBatch:
    """Sequences of one length, (B, N, D). Each row attends to every row or, in the text branch, to those before it.

    Args:
        readout: the row that becomes the features: one for all sequences, or (B,) one for each.
        mask: additive (N, N), causal, of texts.
    """

    def __init__(self, readout: int | Tensor, mask: Tensor | None = None) -> None:
        self.readout, self.mask = readout, mask

    def last_rows(self) -> Rows:
        """What the last block must update."""
        return slice(self.readout, self.readout + 1) if isinstance(self.readout, int) else EVERY

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, H, n, d), k and v (B, H, N, d) -> what each head gathers, as q."""
        return attention(q, k, v, causal=self.mask is not None)

    def read(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, D)."""
        return x[:, self.readout] if isinstance(self.readout, int) else x[torch.arange(x.shape[0]), self.readout]


class PrefixPackedTexts(nn.Module):
    """Texts that share a prefix, as one flat sequence (T, D): the prefix once, then the rest of each text up to EOS.

    The prefix attends to itself; a text's rest attends to the prefix and to itself, both causally. That is the causal
    attention of every text by itself: equal rows above equal rows stay equal through all blocks.

    Args:
        tokens: (K, N) token ids; EOS is the largest id of its row.
    """

    positions: Tensor  # (T,)
    ids: Tensor  # (T,)
    eos: Tensor  # (K,) rows of EOS in the order of the flat sequence
    unsort: Tensor  # (K,) back to the order of the classes
    mask = None

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        lengths = tokens.argmax(-1) + 1
        differs = (tokens != tokens[0]).any(0).int()
        self.longest = int(lengths.max())
        self.prefix = min(int(differs.argmax()) if differs.any() else tokens.shape[1], int(lengths.min()) - 1)
        rest = lengths - self.prefix
        order = rest.argsort(stable=True)  # texts of one length side by side, so that they can be viewed as (G, n)
        columns = [torch.arange(self.prefix)] + [torch.arange(self.prefix, int(n)) for n in lengths[order]]
        texts = [torch.zeros(self.prefix, dtype=torch.long)] + [k.repeat(int(rest[k])) for k in order]
        self.groups: list[tuple[int, int]] = [
            (int(count), int(n)) for n, count in zip(*rest.unique(return_counts=True))
        ]
        buffers = {
            "positions": torch.cat(columns),
            "ids": tokens[torch.cat(texts), torch.cat(columns)],
            "eos": self.prefix - 1 + rest[order].cumsum(0),
            "unsort": order.argsort(),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def last_rows(self) -> Rows:
        return self.eos

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (H, T, d), or (H, K, d) where only EOS asks; k, v (H, T, d) -> as q."""
        sizes = [self.prefix, *(count * n for count, n in self.groups)]
        asks = sizes if q.shape[1] == k.shape[1] else [0, *(count for count, _ in self.groups)]
        (qp, *qs), (kp, *ks), (vp, *vs) = q.split(asks, 1), k.split(sizes, 1), v.split(sizes, 1)
        gathered = [attention(qp, kp, vp, causal=True)]
        for qg, kg, vg, (count, _) in zip(qs, ks, vs, self.groups):
            qg, kg, vg = (t.unflatten(1, (count, -1)) for t in (qg, kg, vg))  # (H, count, 1 or n, d)
            kg, vg = (torch.cat([t[:, None].expand(-1, count, -1, -1), own], 2) for t, own in ((kp, kg), (vp, vg)))
            gathered.append(attention(qg, kg, vg, causal=True).flatten(1, 2))
        return torch.cat(gathered, 1)

    def read(self, x: Tensor) -> Tensor:
        """Rows of EOS (K, D), in the order of the flat sequence -> (K, D) in the order of the classes."""
        return x[self.unsort]


Layout = PaddedBatch | PrefixPackedTexts
