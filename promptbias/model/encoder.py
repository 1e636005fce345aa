"""One walk through a branch of a stock CLIP: embed, blocks, project.

The vision and the text branch take the same walk. A method plugs in what it learns as a `Tuner` (before a block: replace
prompts; after a block: add a bias), the analysis looks on as a `Tap`, and CLIP's own modules are only read.

What is not needed is not computed, and every saving is exact:
- text attention is causal, so nothing after EOS is encoded;
- all classes share SOS and the template, so their common prefix is encoded once (`Packed`);
- the last block updates only the row that is read ([cls] or EOS), since nothing comes after it;
- prompts that the next block replaces serve as keys and values only.

Shapes: B images, K classes, N tokens, D width, H heads, d = D / H, P tokens of shared prefix.
"""

from typing import Union
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptbias.utils.errors import UserError
from promptbias.model.prepacked_linear import EVERY, linear

Rows = Union[slice, Tensor]
TEXTS_AT_ONCE = 1000  # so that memory does not grow with the number of classes beyond
QUICK_GELU = 1.702  # CLIP's approximation of GELU: u σ(1.702 u)


class Tuner(nn.Module):
    """What a method learns for one branch, and where it attaches. This one learns nothing: it is plain CLIP.

    Attributes:
        prompts_at: the rows where prompts stand among the tokens (none here).
    """

    prompts_at = slice(0, 0)

    def start(self, x: Tensor) -> Tensor:
        """Tokens (..., N, D) as embedded: words before their positions, or [cls] and patches before `ln_pre`."""
        return x

    def before(self, i: int, x: Tensor) -> Tensor:
        """Tokens (..., N, D) that block i (from 0) receives."""
        return x

    def after(self, i: int, x: Tensor) -> Tensor:
        """Tokens (..., N, D) that block i gave."""
        return x

    def read_after(self, i: int) -> slice:
        """The rows of block i's output that are still read afterwards."""
        return EVERY


class Tap:
    """Looks on (or steps in) at named points of the walk, while a tower's `tap` is set to it.

    With a tap every sequence is laid out in full, prompts included, and every row of every block is computed. Columns and
    rows are then, in the vision branch, [cls], M patches, prompts; in the text branch SOS, prompts or template words, class
    words, ".", EOS, padding. `Tuner.prompts_at` says where the prompts are.
    """

    def tokens(self, i: int, x: Tensor) -> None:
        """Input of block i, before `ln_1`: (B, N, D)."""

    def attend(self, i: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of block i: q, k, v (B, H, N, d), additive mask (N, N) or None -> what each head gathers (B, H, N, d)."""
        return self.weights(q, k, mask).to(v.dtype) @ v

    @staticmethod
    def weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax attention (B, H, N, N), in float32."""
        scores = q.float() * q.shape[-1] ** -0.5 @ k.float().transpose(-1, -2)
        return (scores if mask is None else scores + mask).softmax(-1)


def norm(layer: nn.LayerNorm, x: Tensor, scale: float = 1.0) -> Tensor:
    """Layer norm times `scale`, computed in float32 inside whatever the dtype of x."""
    weight, bias = (layer.weight, layer.bias) if scale == 1 else (layer.weight * scale, layer.bias * scale)
    return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., N, D) -> (..., H, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def join_heads(x: Tensor) -> Tensor:
    """(..., H, N, d) -> (..., N, D)."""
    return x.transpose(-2, -3).flatten(-2)


def causal_mask(rows: int, columns: int, like: Tensor) -> Tensor:
    """Additive mask (rows, columns): the rows are the last of the columns, and attend to themselves and what is before."""
    return like.new_full((rows, columns), -torch.inf).triu(columns - rows + 1)


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / √d) v over the last two axes; where `causal`, q are the last rows of the sequences of k and v.

    Torch's fused kernel keeps no weights for backward. But on a CPU it is slower in bfloat16 than the products written out,
    in backward by far, and in every dtype on many short sequences; and before 2.0 torch has none.
    """
    slow = causal or (q.dtype == torch.bfloat16 and not q.is_cuda)
    if slow or not hasattr(F, "scaled_dot_product_attention"):
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        if causal:
            scores = scores + causal_mask(*scores.shape[-2:], scores)
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def mlp(layers: nn.Module, x: Tensor, ln: nn.LayerNorm) -> Tensor:
    """x + CLIP's MLP of ln(x), c_proj(u σ(1.702 u)) with u = c_fc(ln(x)), as x + c_proj(silu(1.702 u)) / 1.702.

    That keeps one wide tensor for backward instead of three. The factors are applied where tensors are narrow: the first to
    the layer norm, the second where the result is added.
    """
    fc, proj = layers.c_fc, layers.c_proj
    wide = linear(norm(ln, x, QUICK_GELU), fc.weight, fc.bias * QUICK_GELU)
    silu = F.silu(wide, inplace=not wide.requires_grad)
    return torch.add(x, linear(silu, proj.weight, proj.bias * QUICK_GELU), alpha=1 / QUICK_GELU)


class Dense:
    """Sequences of one length, (B, N, D). Each row attends to every row or, in the text branch, to those before it.

    Args:
        reads: the row that is read at the end: one for all sequences, or (B,) one for each.
        mask: additive (N, N), handed to a `Tap`; without a tap only the vision branch is laid out densely, and has none.
    """

    def __init__(self, reads: int | Tensor, mask: Tensor | None = None) -> None:
        self.reads, self.mask = reads, mask

    def last_rows(self) -> Rows:
        """What the last block has to update."""
        return slice(self.reads, self.reads + 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, H, n, d), k and v (B, H, N, d) -> what each head gathers, as q."""
        return attention(q, k, v)

    def read(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, D)."""
        return x[:, self.reads] if isinstance(self.reads, int) else x[torch.arange(len(x)), self.reads]


class Packed(nn.Module):
    """Texts that share a prefix, as one flat sequence (T, D): the prefix once, then what is left of each text up to EOS.

    The prefix attends to itself; a text's rest attends to the prefix and to itself, both causally. That is the causal
    attention of every text by itself: equal rows above equal rows stay equal through all blocks.

    Args:
        tokens: (K, N) token ids; EOS is the largest id of its row.
    """

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        lengths = tokens.argmax(-1) + 1
        differs = (tokens != tokens[0]).any(0).int()
        self.prefix = min(int(differs.argmax()) if differs.any() else tokens.shape[1], int(lengths.min()) - 1)
        rest = lengths - self.prefix
        order = rest.argsort(stable=True)  # texts of one length side by side, so that they can be viewed as (G, n)
        columns = [torch.arange(self.prefix)] + [torch.arange(self.prefix, n) for n in lengths[order]]
        texts = [torch.zeros(self.prefix, dtype=torch.long)] + [k.repeat(int(rest[k])) for k in order]
        self.groups: list[tuple[int, int]] = [
            (int(count), int(n)) for n, count in zip(*rest.unique(return_counts=True))
        ]
        ends = self.prefix - 1 + rest[order].cumsum(0)
        buffers = {
            "positions": torch.cat(columns),  # (T,)
            "ids": tokens[torch.cat(texts), torch.cat(columns)],  # (T,)
            "eos": ends,  # (K,) rows of EOS in the order of the flat sequence
            "unsort": order.argsort(),  # (K,) back to the order of the classes
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


class Tower(nn.Module):
    """One branch of a stock CLIP, seen as embed, blocks, project.

    Args:
        blocks: the residual attention blocks of the branch, which stay the stock CLIP's own.

    Attributes:
        tap: a `Tap` that looks on, or None.

    Raises:
        UserError: the blocks are not OpenAI's.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        activation = type(blocks[0].mlp.gelu).__name__
        if activation != "QuickGELU":
            raise UserError(f"this CLIP has {activation} in its blocks, but only OpenAI's QuickGELU is computed here")
        self.blocks = blocks
        self.heads: int = blocks[0].attn.num_heads
        self.width: int = blocks[0].attn.embed_dim
        self.tap: Tap | None = None

    def walk(self, x: Tensor, tuner: Tuner, layout: Dense | Packed) -> Tensor:
        """Embedded tokens (..., N, D) through all blocks -> the rows that are read, (B or K, D)."""
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x = tuner.before(i, x)
            rows: Rows = EVERY
            if self.tap is None:
                rows = layout.last_rows() if i == last else tuner.read_after(i)
            x = tuner.after(i, self.block(i, block, x, rows, layout))
        return layout.read(x)

    def block(self, i: int, block: nn.Module, x: Tensor, rows: Rows, layout: Dense | Packed) -> Tensor:
        """Block i, (..., N, D) -> (..., len(rows), D): every token is key and value, only `rows` are updated."""
        attn, D = block.attn, self.width
        W, b = attn.in_proj_weight, attn.in_proj_bias
        h = norm(block.ln_1, x)
        q = linear(h[..., rows, :], W, b, slice(D))
        k, v = linear(h, W, b, slice(D, 3 * D)).chunk(2, -1)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        if self.tap is None:
            gathered = layout.attend(q, k, v)
        else:
            self.tap.tokens(i, x)
            gathered = self.tap.attend(i, q, k, v, layout.mask)
        x = x[..., rows, :] + linear(join_heads(gathered), attn.out_proj.weight, attn.out_proj.bias)
        return mlp(block.mlp, x, block.ln_2)


class VisionTower(Tower):
    """The vision branch of a ViT CLIP (eqs. 1-4 of the paper)."""

    def __init__(self, clip_model: nn.Module) -> None:
        super().__init__(clip_model.visual.transformer.resblocks)
        self.visual = clip_model.visual
        self.patches = len(self.visual.positional_embedding) - 1

    def forward(self, image: Tensor, tuner: Tuner) -> Tensor:
        """Images (B, 3, S, S) -> features (B, d), not normalised."""
        visual = self.visual
        x = visual.conv1(image.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # (B, M, D)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)
        x = tuner.start(x + visual.positional_embedding)
        x = self.walk(norm(visual.ln_pre, x), tuner, Dense(0))
        return norm(visual.ln_post, x) @ visual.proj


class TextTower(Tower):
    """The text branch of a CLIP for a fixed list of texts (eqs. 5-8 of the paper).

    Args:
        clip_model: a stock CLIP.
        tokens: (K, N) token ids of the texts.
    """

    def __init__(self, clip_model: nn.Module, tokens: Tensor) -> None:
        super().__init__(clip_model.transformer.resblocks)
        self.clip = clip_model
        self.packs = nn.ModuleList(Packed(some) for some in tokens.split(TEXTS_AT_ONCE))
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, tuner: Tuner, which: Tensor | None = None) -> Tensor:
        """Features (K, d) of all texts, or (len(which), d) of `which` (with repetitions), not normalised."""
        if self.tap is None:
            features = torch.cat([self.encode_pack(tuner, pack) for pack in self.packs])
            return features if which is None else features[which]
        tokens = self.tokens if which is None else self.tokens[which]
        eos = tokens.argmax(-1)
        ids = tokens[:, : int(eos.max()) + 1]
        mask = causal_mask(ids.shape[1], ids.shape[1], self.clip.positional_embedding)
        return self.encode(tuner, ids, torch.arange(ids.shape[1], device=ids.device), Dense(eos, mask))

    def encode_pack(self, tuner: Tuner, pack: Packed) -> Tensor:
        """Features (K, d) of a pack. Of one among several nothing is kept for backward, which encodes it once more."""
        args = tuner, pack.ids, pack.positions, pack
        if len(self.packs) == 1 or not torch.is_grad_enabled():
            return self.encode(*args)
        return checkpoint(self.encode, *args, use_reentrant=False, preserve_rng_state=False)

    def encode(self, tuner: Tuner, ids: Tensor, positions: Tensor, layout: Dense | Packed) -> Tensor:
        """Token ids (..., N) at positions (N,) -> features (K, d)."""
        x = tuner.start(self.clip.token_embedding(ids)) + self.clip.positional_embedding[positions]
        x = self.walk(x, tuner, layout)
        return norm(self.clip.ln_final, x) @ self.clip.text_projection
