"""The usual computation of this family, written plainly: float32, all 77 positions of every class in every pass.

The stock CLIP's own blocks do the work. It is what the ratios refer to, and what the tests compare with.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class UsualCLIP(nn.Module):
    """A frozen stock CLIP with prompts replaced before, or biases added after, its blocks. Positions come before the batch in
    all blocks, as CLIP has them.

    Args:
        clip_model: a stock CLIP in float32.
        tokens: (K, 77) token ids.
    """

    def __init__(self, clip_model: nn.Module, tokens: Tensor) -> None:
        super().__init__()
        self.clip = clip_model.requires_grad_(False)
        self.register_buffer("tokens", tokens)

    def put_image(self, i: int, x: Tensor) -> Tensor:
        """Tokens (N, B, D) that block i of the image branch receives."""
        return x

    def put_text(self, i: int, x: Tensor) -> Tensor:
        return x

    def add_image(self, i: int, x: Tensor) -> Tensor:
        """Tokens (N, B, D) that block i of the image branch gave."""
        return x

    def add_text(self, i: int, x: Tensor) -> Tensor:
        return x

    def image_features(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> unit vectors (B, d)."""
        visual = self.clip.visual
        x = visual.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
        x = visual.ln_pre(self.put_image(0, x.transpose(0, 1)).contiguous())
        for i, block in enumerate(visual.transformer.resblocks):
            x = self.put_image(i, x) if i else x
            x = self.add_image(i, block(x))
        return F.normalize(visual.ln_post(x[0]) @ visual.proj, dim=-1)

    def text_features(self) -> Tensor:
        """Unit vectors (K, d)."""
        clip = self.clip
        x = self.put_text(0, clip.token_embedding(self.tokens.t())) + clip.positional_embedding[:, None]
        for i, block in enumerate(clip.transformer.resblocks):
            x = self.put_text(i, x) if i else x
            x = self.add_text(i, block(x))
        x = clip.ln_final(x)[self.tokens.argmax(-1), torch.arange(x.shape[1])]
        return F.normalize(x @ clip.text_projection, dim=-1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> logits (B, K)."""
        return self.clip.logit_scale.exp() * self.image_features(image) @ self.text_features().t()


class UsualBiasTuning(UsualCLIP):
    """Biases (L, D) of either branch."""

    def __init__(self, clip_model: nn.Module, tokens: Tensor, vision: Tensor, text: Tensor) -> None:
        super().__init__(clip_model, tokens)
        self.vision, self.text = nn.Parameter(vision.clone()), nn.Parameter(text.clone())

    def add_image(self, i: int, x: Tensor) -> Tensor:
        return x + self.vision[i]

    def add_text(self, i: int, x: Tensor) -> Tensor:
        return x + self.text[i]


class UsualIVLP(UsualCLIP):
    """Prompts (L, n, D) of either branch: after the patches, and after SOS."""

    def __init__(self, clip_model: nn.Module, tokens: Tensor, vision: Tensor, text: Tensor) -> None:
        super().__init__(clip_model, tokens)
        self.vision, self.text = nn.Parameter(vision.clone()), nn.Parameter(text.clone())

    def put_image(self, i: int, x: Tensor) -> Tensor:
        patches = len(self.clip.visual.positional_embedding)
        return torch.cat([x[:patches], self.vision[i][:, None].expand(-1, x.shape[1], -1)])

    def put_text(self, i: int, x: Tensor) -> Tensor:
        n = self.text.shape[1]
        return torch.cat([x[:1], self.text[i][:, None].expand(-1, x.shape[1], -1), x[1 + n :]])


def usual_relevancy(clip_model: nn.Module, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Relevancy of plain CLIP, one pair at a time and with one backward pass per block.

    Args:
        image: (B, 3, S, S).
        tokens: (B, 77) ids of the text that belongs to each image.

    Returns:
        Row [cls] (B, M) without its own column, row EOS (B, 77).
    """
    clip, of_image, of_text = clip_model, [], []
    for one, ids in zip(image[:, None], tokens[:, None]):
        visual, eos = clip.visual, int(ids.argmax())
        x = visual.conv1(one).flatten(2).transpose(1, 2)
        x = visual.ln_pre(torch.cat([visual.class_embedding.expand(1, 1, -1), x], 1) + visual.positional_embedding)
        x, seen_v = watched(visual.transformer.resblocks, x, None)
        f = F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)
        x = clip.token_embedding(ids) + clip.positional_embedding
        x, seen_t = watched(clip.transformer.resblocks, x, torch.full((77, 77), -torch.inf, device=x.device).triu(1))
        g = F.normalize(clip.ln_final(x)[:, eos] @ clip.text_projection, dim=-1)
        y = clip.logit_scale.exp() * (f * g).sum()
        for seen, row, found in ((seen_v, 0, of_image), (seen_t, eos, of_text)):
            R = torch.eye(seen[0].shape[-1], device=x.device)
            for attention in seen:
                (gradient,) = torch.autograd.grad(y, [attention], retain_graph=True)
                R = R + (gradient * attention).clamp(min=0).mean(1)[0].detach() @ R
            found.append(R[row])
    return torch.stack(of_image)[:, 1:], torch.stack(of_text)


def watched(blocks: Sequence[nn.Module], x: Tensor, mask) -> tuple[Tensor, list]:
    """(1, N, D) through the blocks with attention written out, and the attention (1, H, N, N) of each."""
    seen = []
    for block in blocks:
        attn = block.attn
        q, k, v = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = (scores if mask is None else scores + mask).softmax(-1).requires_grad_()
        seen.append(weights)
        x = x + attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
    return x, seen
