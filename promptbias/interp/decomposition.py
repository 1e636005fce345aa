"""Attention with prompts, decomposed into what comes from the inputs and what comes from the prompts (eqs. 12, 17-33).

For a row that is not a prompt, and per head, let a be the softmax over the columns of the inputs alone, π the mass that
the full softmax gives to the prompts, and u what the head gathers from them. Then, exactly,

    attention update = (1 - π) a v W_O + u W_O + b_O.

Inputs are all tokens but the prompts: [cls] and patches, or SOS and what stands after the prompts up to EOS. Shapes:
B samples, H heads, L blocks, N tokens of which n are inputs, D width, d = D / H.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from promptbias.model.encoder import split_heads
from promptbias.model.hooks import Hook, Point
from promptbias.model.layouts import attention_pattern, causal_mask


class AttentionParts(NamedTuple):
    """The attention of the inputs in one block, decomposed. All of it is float32, before the output projection."""

    a: Tensor  # a, (B, H, n, n): softmax over the inputs' columns alone
    prompt_mass: Tensor  # π, (B, H, n, 1): mass of the full softmax on the prompts
    v: Tensor  # v, (B, H, n, d): values of the inputs, bias included
    u: Tensor  # u, (B, H, n, d): what is gathered from the prompts
    full: Tensor  # (1 - π) a v + u, (B, H, n, d): what is gathered from inputs and prompts together
    sees_prompts: Tensor  # (n, 1): 1 where the mask lets the row attend to prompts, else 0 (SOS)


# Takes a block (from 0) and its parts, and returns None to leave them, or what its inputs gather instead, (B, H, n, d).
PartsHook = Callable[[int, AttentionParts], Tensor | None]


class DecomposedAttention:
    """Hooks that decompose the attention of every block and hand it to `on_parts`. Prompt rows are left alone.

        with tower.hooked(DecomposedAttention(adapter.prompts_at, tower.heads, causal=False, on_parts=look).hooks()):
            ...

    Args:
        prompts_at: the rows where prompts stand (`Adapter.prompts_at`). If these rows lie beyond the end of the
            sequence, as they do in the base model's vision branch, every token is an input.
        heads: H.
        causal: whether rows attend only to themselves and what is before them, as in the text branch.
        on_parts: called once per block and pass.
    """

    def __init__(self, prompts_at: slice, heads: int, causal: bool, on_parts: PartsHook) -> None:
        self.prompts_at, self.heads, self.causal, self.on_parts = prompts_at, heads, causal, on_parts
        self.remembered: dict[str, Tensor] = {}  # of the block at hand

    def hooks(self) -> dict[str, Hook]:
        """What `Tower.hooked` takes."""
        read = dict.fromkeys((f"blocks.*.attn.{name}" for name in ("q", "k", "v", "pattern")), self.remember)
        return {**read, "blocks.*.attn.z": self.replace}

    def remember(self, value: Tensor, point: Point) -> None:
        self.remembered[point.name] = value

    def replace(self, z: Tensor, point: Point) -> Tensor | None:
        """z (B, H, N, d) with the inputs' rows replaced, where `on_parts` says by what."""
        assert point.block is not None
        inputs = self.inputs(z.shape[-2], z.device)
        replacement = self.on_parts(point.block, self.parts(z, inputs))
        if replacement is None:
            return None
        return z.index_copy(-2, inputs, replacement.to(z.dtype))

    def inputs(self, length: int, device: torch.device) -> Tensor:
        """The rows of the inputs among `length` tokens, (n,)."""
        rows = torch.arange(length, device=device)
        return torch.cat([rows[: self.prompts_at.start], rows[self.prompts_at.stop :]])

    def parts(self, z: Tensor, inputs: Tensor) -> AttentionParts:
        """What is remembered of a block, decomposed."""
        q, k, v = (split_heads(self.remembered[f"attn.{name}"], self.heads) for name in ("q", "k", "v"))
        n, v = len(inputs), v.float()
        # Without the prompts the inputs keep their order, so causal attention among them is causal as well.
        mask = causal_mask(n, n, z.float()) if self.causal else None
        to_prompts = self.remembered["attn.pattern"][..., inputs, self.prompts_at]
        return AttentionParts(
            a=attention_pattern(q[..., inputs, :], k[..., inputs, :], mask),
            prompt_mass=to_prompts.sum(-1, keepdim=True),
            v=v[..., inputs, :],
            u=to_prompts @ v[..., self.prompts_at, :],
            full=z[..., inputs, :].float(),
            sees_prompts=(inputs >= self.prompts_at.start if self.causal else torch.ones_like(inputs))[:, None].float(),
        )
