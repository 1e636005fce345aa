"""The two branches of a stock CLIP: embed, run the blocks, project.

Vision and text share one code path. A method attaches an `Adapter`, interpretation attaches hooks (see `hooks`), and
CLIP's own modules are only read.

What is not needed is not computed, and every saving is exact:
- text attention is causal, so nothing after EOS is encoded;
- all classes share SOS and the template, so their common prefix is encoded once (`PrefixPackedTexts`); but a GPU pads
  few texts;
- the last block updates only the row that becomes the features ([cls] or EOS);
- prompts that the next block replaces serve as keys and values only.

Shapes: B images, K classes, N tokens, D width, H heads, d = D / H.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .adapter import OUTSIDE, Adapter
from .hooks import EMBEDDINGS, FEATURES, IN_MLP, Hookable, Point
from .layouts import Layout, PaddedBatch, PrefixPackedTexts, Rows, attention_pattern, causal_mask
from .prepacked_linear import EVERY, linear

TEXTS_AT_ONCE = 1000  # so that memory does not grow with the number of classes beyond
PADDED_AT_MOST = 4096  # tokens of texts on a GPU; see `TextTower.encode_pack`
QUICK_GELU = 1.702  # OpenAI's approximation of GELU: u σ(1.702 u)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, scale: float = 1.0) -> Tensor:
    """Layer norm times `scale`, computed in float32 inside whatever the dtype of x."""
    if scale != 1:
        weight, bias = weight * scale, bias * scale
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., N, D) -> (..., H, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def join_heads(x: Tensor) -> Tensor:
    """(..., H, N, d) -> (..., N, D)."""
    return x.transpose(-2, -3).flatten(-2)


class Tower(Hookable, nn.Module):
    """One branch of a stock CLIP.

    Args:
        blocks: the residual attention blocks of the branch, which stay the stock CLIP's own.
        outer: name -> the branch's LayerNorms outside of its blocks; the last one stands before the projection.
    """

    def __init__(self, blocks: Sequence[Any], outer: dict[str, nn.LayerNorm]) -> None:
        super().__init__()
        self.blocks: Any = blocks
        self.norms = outer
        self.heads: int = blocks[0].attn.num_heads
        self.width: int = blocks[0].attn.embed_dim
        self.is_quick_gelu = type(blocks[0].mlp.gelu).__name__ == "QuickGELU"

    @property
    def projection(self) -> Tensor:
        """What takes the branch to the joint space, (D, joint width)."""
        raise NotImplementedError

    @property
    def last_norm(self) -> str:
        """Name of the LayerNorm before the projection."""
        return list(self.norms)[-1]

    @property
    def outer(self) -> dict[str, Tensor]:
        """The frozen parameters outside of the blocks that an adapter can attach to, by name."""
        norms = {
            f"{name}.{kind}": getattr(norm, kind) for name, norm in self.norms.items() for kind in ("weight", "bias")
        }
        return {**norms, "proj": self.projection}

    def activation(self, adapter: Adapter, i: int, name: str, x: Tensor, source: Tensor | None = None) -> Tensor:
        """The value at a point after the adapter and the hooks that are there."""
        if name in adapter.attaches_to:
            x = adapter.on_activation(name, i, x, source)
        return self.hook(i, name, x)

    def hook(self, i: int, name: str, x: Tensor) -> Tensor:
        return x if self.hooks is None else self.hooks(Point(None if i == OUTSIDE else i, name), x)

    def outer_norm(self, adapter: Adapter, name: str, x: Tensor) -> Tensor:
        """One of the LayerNorms outside of the blocks."""
        norm = self.norms[name]
        weight, bias = (
            adapter.parameter(key, OUTSIDE, frozen) if key in adapter.attaches_to else frozen
            for key, frozen in ((f"{name}.weight", norm.weight), (f"{name}.bias", norm.bias))
        )
        return layer_norm(x, weight, bias, norm.eps)

    def features(self, adapter: Adapter, x: Tensor) -> Tensor:
        """Rows (B or K, D) of the last block through its LayerNorm and the projection -> (B or K, joint width)."""
        x = self.outer_norm(adapter, self.last_norm, x)
        attached = "proj" in adapter.attaches_to
        projection = adapter.parameter("proj", OUTSIDE, self.projection) if attached else self.projection
        return self.activation(adapter, OUTSIDE, FEATURES, x @ projection)

    def run_blocks(self, x: Tensor, adapter: Adapter, layout: Layout) -> Tensor:
        """Embedded tokens (..., N, D) through all blocks -> the rows that become the features, (B or K, D)."""
        last = len(self.blocks) - 1
        for i in range(len(self.blocks)):
            x = self.hook(i, "resid_pre", adapter.pre_block(i, x))
            rows: Rows = EVERY
            if self.hooks is None:
                rows = layout.last_rows() if i == last else adapter.live_rows(i)
            x = self.hook(i, "resid_post", adapter.post_block(i, self.block(i, x, adapter, rows, layout)))
        return layout.read(x)

    def block(self, i: int, x: Tensor, adapter: Adapter, rows: Rows, layout: Layout) -> Tensor:
        """Block i, (..., N, D) -> (..., len(rows), D): every token is key and value, only `rows` are updated. In effect

        x = x + attention(ln_1(x))
        x = x + mlp(ln_2(x))
        """
        block = self.blocks[i]
        at = functools.partial(self.activation, adapter, i)

        def parameter(name: str, frozen: Tensor) -> Tensor:
            return adapter.parameter(name, i, frozen) if name in adapter.attaches_to else frozen

        x = at("resid_mid", x[..., rows, :] + self.attention(i, x, rows, layout, at, parameter))
        ln = parameter("ln_2.weight", block.ln_2.weight), parameter("ln_2.bias", block.ln_2.bias), block.ln_2.eps
        fc, proj = block.mlp.c_fc, block.mlp.c_proj
        W_fc, b_fc = parameter("mlp.c_fc.weight", fc.weight), parameter("mlp.c_fc.bias", fc.bias)
        W_proj, b_proj = parameter("mlp.c_proj.weight", proj.weight), parameter("mlp.c_proj.bias", proj.bias)
        untouched = (self.hooks is None or not self.hooks.inside_mlp(i)) and not set(IN_MLP) & set(adapter.attaches_to)
        if self.is_quick_gelu and untouched:
            # u σ(1.702 u) = silu(1.702 u) / 1.702 keeps one wide tensor for backward instead of three. The factors are
            # applied where tensors are narrow: the first to the layer norm, the second where the result is added.
            silu = linear(layer_norm(x, *ln, QUICK_GELU), W_fc, b_fc * QUICK_GELU, silu=True)
            return torch.add(x, linear(silu, W_proj, b_proj * QUICK_GELU), alpha=1 / QUICK_GELU)
        h = at("ln_2", layer_norm(x, *ln))
        hidden = at("mlp.hidden", linear(h, W_fc, b_fc), h)
        activated = block.mlp.gelu(hidden)
        return x + at("mlp.out", linear(activated, W_proj, b_proj), activated)

    def attention(self, i: int, x: Tensor, rows: Rows, layout: Layout, at, parameter) -> Tensor:
        """What attention of block i adds to `rows` of x: (..., N, D) -> (..., len(rows), D)."""
        block, D = self.blocks[i], self.width
        attn, ln_1 = block.attn, block.ln_1
        weight, bias = parameter("ln_1.weight", ln_1.weight), parameter("ln_1.bias", ln_1.bias)
        h = at("ln_1", layer_norm(x, weight, bias, ln_1.eps))
        W, b = parameter("attn.in_proj_weight", attn.in_proj_weight), parameter("attn.in_proj_bias", attn.in_proj_bias)
        asking = h[..., rows, :]
        q = at("attn.q", linear(asking, W, b, slice(D)), asking)
        k, v = linear(h, W, b, slice(D, 3 * D)).chunk(2, -1)
        k, v = at("attn.k", k, h), at("attn.v", v, h)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        if self.hooks is None:
            z = layout.attend(q, k, v)
        else:
            pattern = at("attn.pattern", attention_pattern(q, k, layout.mask))
            z = at("attn.z", pattern.to(v.dtype) @ v)
        z = join_heads(z)
        W_O = parameter("attn.out_proj.weight", attn.out_proj.weight)
        return at("attn.out", linear(z, W_O, parameter("attn.out_proj.bias", attn.out_proj.bias)), z)


class VisionTower(Tower):
    """The vision branch of a ViT CLIP (eqs. 1-4 of the paper)."""

    def __init__(self, clip_model: Any) -> None:
        visual = clip_model.visual
        super().__init__(visual.transformer.resblocks, {"ln_pre": visual.ln_pre, "ln_post": visual.ln_post})
        self.visual = visual
        self.patches = visual.positional_embedding.shape[0] - 1

    @property
    def projection(self) -> Tensor:
        visual: Any = self.visual
        return visual.proj

    def forward(self, image: Tensor, adapter: Adapter) -> Tensor:
        """Images (B, 3, S, S) -> features (B, joint width), not normalised."""
        return self.encode(self.embed(image), adapter)

    def embed(self, image: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> [cls] and patches with their positions, (B, 1 + M, D)."""
        visual: Any = self.visual
        x = visual.conv1(image.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # (B, M, D)
        return torch.cat([visual.class_embedding.expand(x.shape[0], 1, -1), x], 1) + visual.positional_embedding

    def encode(self, x: Tensor, adapter: Adapter) -> Tensor:
        """Embedded tokens (B, N, D) -> features (B, joint width), not normalised."""
        x = self.hook(OUTSIDE, EMBEDDINGS, adapter.on_embeddings(x))
        return self.features(adapter, self.run_blocks(self.outer_norm(adapter, "ln_pre", x), adapter, PaddedBatch(0)))


class TextTower(Tower):
    """The text branch of a CLIP for a fixed list of texts (eqs. 5-8 of the paper).

    Args:
        clip_model: a stock CLIP.
        tokens: (K, N) token ids of the texts.
    """

    tokens: Tensor

    def __init__(self, clip_model: Any, tokens: Tensor) -> None:
        super().__init__(clip_model.transformer.resblocks, {"ln_final": clip_model.ln_final})
        self.clip = clip_model
        self.packs = nn.ModuleList(PrefixPackedTexts(some) for some in tokens.split(TEXTS_AT_ONCE))
        self.register_buffer("tokens", tokens, persistent=False)

    @property
    def projection(self) -> Tensor:
        clip: Any = self.clip
        return clip.text_projection

    def forward(self, adapter: Adapter, which: Tensor | None = None) -> Tensor:
        """Features (K, joint width) of all texts, or of `which` (with repetitions), not normalised."""
        if self.hooks is None:
            parts = zip(self.packs, self.tokens.split(TEXTS_AT_ONCE))
            features = torch.cat([self.encode_pack(adapter, pack, tokens) for pack, tokens in parts])
            return features if which is None else features[which]
        tokens = self.tokens if which is None else self.tokens[which]
        return self.encode_padded(adapter, tokens, int(tokens.argmax(-1).max()) + 1)

    def encode_pack(self, adapter: Adapter, pack: Any, tokens: Tensor) -> Tensor:
        """Features (K, joint width) of a pack; one of several is encoded again for backward, and keeps nothing.

        A GPU does what so few tokens need in less time than it takes to start the kernels. Padded they need half as
        many kernels as packed.
        """
        if tokens.is_cuda and len(tokens) * pack.longest <= PADDED_AT_MOST:
            return self.encode_padded(adapter, tokens, pack.longest)
        args = adapter, pack.ids, pack.positions, pack
        if len(self.packs) == 1 or not torch.is_grad_enabled():
            return self.encode(*args)
        return checkpoint(self.encode, *args, use_reentrant=False)

    def encode_padded(self, adapter: Adapter, tokens: Tensor, longest: int) -> Tensor:
        """Features (K, joint width) of texts of at most `longest` tokens, from the tokens (K, N) up to there."""
        layout = PaddedBatch(tokens.argmax(-1), causal_mask(longest, longest, self.clip.positional_embedding))
        return self.encode(adapter, tokens[:, :longest], torch.arange(longest, device=tokens.device), layout)

    def encode(self, adapter: Adapter, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Token ids (..., N) at positions (N,) -> features (K, joint width)."""
        clip: Any = self.clip
        x = self.hook(OUTSIDE, EMBEDDINGS, adapter.on_embeddings(clip.token_embedding(ids)))
        return self.features(adapter, self.run_blocks(x + clip.positional_embedding[positions], adapter, layout))
