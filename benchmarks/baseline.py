"""The baseline: what public code of this family computes. float32, all 77 text positions of every class in every pass.

The stock CLIP's own blocks do the work. Speedups refer to it, and the tests compare results with it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class BaselineCLIP(nn.Module):
    """A frozen stock CLIP whose subclasses change tokens before and after its blocks.

    Tokens are (N, B, D), positions before the batch, as in CLIP's own blocks.

    Args:
        clip_model: a stock CLIP in float32.
        tokens: (K, 77) token ids.
    """

    tokens: Tensor

    def __init__(self, clip_model: Any, tokens: Tensor) -> None:
        super().__init__()
        self.clip = clip_model.requires_grad_(False)
        self.register_buffer("tokens", tokens)

    def pre_block_vision(self, i: int, x: Tensor) -> Tensor:
        """The input of block i of the vision branch."""
        return x

    def pre_block_text(self, i: int, x: Tensor) -> Tensor:
        """The input of block i of the text branch."""
        return x

    def post_block_vision(self, i: int, x: Tensor) -> Tensor:
        """The output of block i of the vision branch."""
        return x

    def post_block_text(self, i: int, x: Tensor) -> Tensor:
        """The output of block i of the text branch."""
        return x

    def image_features(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> unit vectors (B, joint width)."""
        visual = self.clip.visual
        x = visual.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
        x = visual.ln_pre(self.pre_block_vision(0, x.transpose(0, 1)).contiguous())
        for i, block in enumerate(visual.transformer.resblocks):
            x = self.pre_block_vision(i, x) if i else x
            x = self.post_block_vision(i, block(x))
        return F.normalize(visual.ln_post(x[0]) @ visual.proj, dim=-1)

    def text_features(self) -> Tensor:
        """Unit vectors (K, joint width)."""
        clip = self.clip
        x = self.pre_block_text(0, clip.token_embedding(self.tokens.t())) + clip.positional_embedding[:, None]
        for i, block in enumerate(clip.transformer.resblocks):
            x = self.pre_block_text(i, x) if i else x
            x = self.post_block_text(i, block(x))
        x = clip.ln_final(x)[self.tokens.argmax(-1), torch.arange(x.shape[1])]
        return F.normalize(x @ clip.text_projection, dim=-1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, K)."""
        return self.clip.logit_scale.exp() * self.image_features(image) @ self.text_features().t()


class BaselineWithBiases(BaselineCLIP):
    """Biases (L, D) after the blocks of each branch."""

    def __init__(self, clip_model: Any, tokens: Tensor, vision: Tensor, text: Tensor) -> None:
        super().__init__(clip_model, tokens)
        self.vision, self.text = nn.Parameter(vision.clone()), nn.Parameter(text.clone())

    def post_block_vision(self, i: int, x: Tensor) -> Tensor:
        return x + self.vision[i]

    def post_block_text(self, i: int, x: Tensor) -> Tensor:
        return x + self.text[i]


class BaselineWithPrompts(BaselineCLIP):
    """Prompts (L, n, D) before the blocks of each branch: after the patches, and after SOS."""

    def __init__(self, clip_model: Any, tokens: Tensor, vision: Tensor, text: Tensor) -> None:
        super().__init__(clip_model, tokens)
        self.vision, self.text = nn.Parameter(vision.clone()), nn.Parameter(text.clone())

    def pre_block_vision(self, i: int, x: Tensor) -> Tensor:
        tokens = len(self.clip.visual.positional_embedding)
        return torch.cat([x[:tokens], self.vision[i][:, None].expand(-1, x.shape[1], -1)])

    def pre_block_text(self, i: int, x: Tensor) -> Tensor:
        n = self.text.shape[1]
        return torch.cat([x[:1], self.text[i][:, None].expand(-1, x.shape[1], -1), x[1 + n :]])


def baseline_relevancy(clip_model: Any, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Relevancy in plain CLIP (eqs. 13-16 of the paper), pair by pair and with one backward pass per block.

    Args:
        image: (B, 3, S, S).
        tokens: (B, 77) token ids of the text that belongs to each image.

    Returns:
        Row [cls] of R without its own column, (B, M); row EOS of R, (B, 77).
    """
    clip = clip_model
    rows_vision: list[Tensor] = []
    rows_text: list[Tensor] = []
    for pixels, ids in zip(image[:, None], tokens[:, None]):
        visual, eos = clip.visual, int(ids.argmax())
        x = visual.conv1(pixels).flatten(2).transpose(1, 2)
        x = visual.ln_pre(torch.cat([visual.class_embedding.expand(1, 1, -1), x], 1) + visual.positional_embedding)
        x, patterns_vision = run_blocks(visual.transformer.resblocks, x)
        f = F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)
        x = clip.token_embedding(ids) + clip.positional_embedding
        mask = torch.full((77, 77), -torch.inf, device=x.device).triu(1)
        x, patterns_text = run_blocks(clip.transformer.resblocks, x, mask)
        g = F.normalize(clip.ln_final(x)[:, eos] @ clip.text_projection, dim=-1)
        y = clip.logit_scale.exp() * (f * g).sum()
        rows_vision.append(relevancy_row(y, patterns_vision, 0))
        rows_text.append(relevancy_row(y, patterns_text, eos))
    return torch.stack(rows_vision)[:, 1:], torch.stack(rows_text)


def baseline_deletion(clip_model: Any, image: Tensor, label: Tensor, tokens: Tensor, seed: int = 0) -> Tensor:
    """Whether plain CLIP is right along the deletion curves of `promptbias.interp.faithfulness`, (7, 11, B), bool.

    Each curve and each step is a pass of its own over all tokens, in which attention to deleted patches is masked.

    Args:
        image: (B, 3, S, S).
        label: (B,) their classes.
        tokens: (K, 77) token ids of the texts of all classes.
        seed: of the random orders.
    """
    with torch.no_grad():
        texts = BaselineCLIP(clip_model, tokens).text_features()
        predicted = (masked_features(clip_model, image)[0] @ texts.T).argmax(-1)
        attention = masked_features(clip_model, image)[1][:, :, 0, 1:].mean(1)
    own, of_predicted = (baseline_relevancy(clip_model, image, tokens[which])[0] for which in (label, predicted))
    patches, generator = own.shape[1], torch.Generator().manual_seed(seed)
    orders = [torch.stack([torch.randperm(patches, generator=generator) for _ in image]).to(image.device)]
    for values in (own, of_predicted, attention):
        orders += [values.argsort(dim=1, descending=True, stable=True), values.argsort(dim=1, stable=True)]
    right = torch.zeros(len(orders), 11, len(image), dtype=torch.bool)
    for curve, order in enumerate(orders):
        for step in range(11):
            mask = torch.zeros(len(image), 1 + patches, device=image.device)
            mask.scatter_(1, 1 + order[:, : round(step / 10 * patches)], -torch.inf)
            with torch.no_grad():
                features, _ = masked_features(clip_model, image, mask[:, None, None])
                right[curve, step] = (features @ texts.T).argmax(-1) == label
    return right


def masked_features(clip_model: Any, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Unit vectors (B, joint width) of images, and the attention pattern of the last block (B, H, N, N).

    Args:
        mask: additive, on scores (B, H, N, N).
    """
    visual = clip_model.visual
    x = visual.conv1(image).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x, patterns = run_blocks(visual.transformer.resblocks, visual.ln_pre(x), mask)
    return F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1), patterns[-1]


def relevancy_row(y: Tensor, patterns: Sequence[Tensor], row: int) -> Tensor:
    """A row (N,) of R for the scalar y, from the attention patterns (1, H, N, N) of all blocks."""
    R = torch.eye(patterns[0].shape[-1], device=y.device)
    for pattern in patterns:
        (gradient,) = torch.autograd.grad(y, [pattern], retain_graph=True)
        R = R + (gradient * pattern).clamp(min=0).mean(1)[0].detach() @ R
    return R[row]


def run_blocks(blocks: Sequence[Any], x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """Tokens (B, N, D) through the blocks, with attention written out; and the pattern (B, H, N, N) of each block."""
    patterns = []
    for block in blocks:
        attn = block.attn
        q, k, v = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        pattern = (scores if mask is None else scores + mask).softmax(-1).requires_grad_()
        patterns.append(pattern)
        x = x + attn.out_proj((pattern @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
    return x, patterns
