"""Deep prompts: tokens of their own for the first blocks of a branch (section 2.2 of arXiv 2312.11570)."""

import torch
import torch.nn as nn
from torch import Tensor

from .adapter import Adapter
from .prepacked_linear import EVERY
from .templates import tokenize

INIT_STD = 0.02


class DeepPrompts(Adapter):
    """`n` prompts of its own for each of the first `depth` blocks: `prompts` (depth, n, D), from N(0, 0.02²).

    Every block up to `depth` first replaces the prompts that it receives by its own.

    Args:
        at: the row of the first prompt.
    """

    attaches_to = ("embeddings", "resid_pre")

    def __init__(self, depth: int, n: int, width: int, at: int) -> None:
        super().__init__()
        self.prompts = nn.Parameter(INIT_STD * torch.randn(depth, n, width))
        self.prompts_at = slice(at, at + n)
        self.prompt_depth = depth

    def insert(self, x: Tensor, prompts: Tensor) -> Tensor:
        """Tokens (..., N, D) with `prompts` (n, D) in the place of what stands there, if anything does."""
        first, end = self.prompts_at.start, self.prompts_at.stop
        prompts = prompts.to(x.dtype).expand(*x.shape[:-2], -1, -1)
        return torch.cat([x[..., :first, :], prompts, x[..., end:, :]], -2)

    def on_embeddings(self, x: Tensor) -> Tensor:
        return self.insert(x, self.prompts[0])

    def pre_block(self, i: int, x: Tensor) -> Tensor:
        return self.insert(x, self.prompts[i]) if 0 < i < self.prompt_depth else x


class VisionPrompts(DeepPrompts):
    """Prompts after [cls] and the patches."""

    def live_rows(self, i: int) -> slice:
        replaced_next = i + 1 < self.prompt_depth
        return slice(self.prompts_at.start) if replaced_next else EVERY


def placeholders(n: int) -> str:
    """What stands in a text where `n` prompts will: "X X X", whose tokens are one each."""
    return " ".join(["X"] * n)


def word_ids(words: str, clip_model) -> Tensor:
    """Token ids of some words, (n,), without SOS and EOS."""
    ids = tokenize([words], ["CTX_INIT"], clip_model.positional_embedding.shape[0])[0]
    return ids[1 : int(ids.argmax())]


@torch.no_grad()
def start_from_words(prompts: DeepPrompts, words: str, clip_model) -> None:
    """Set the first block's prompts to the embeddings of the first tokens of some words."""
    prompts.prompts[0] = clip_model.token_embedding(word_ids(words, clip_model)[: prompts.prompt_count])


def prompts_label(model) -> str:
    """What a model with prompts is called in figures: "deep prompts 4+4" (vision + text), "shallow prompts 4+0", ..."""
    branches = ((model.adapters.vision, model.vision), (model.adapters.text, model.text))
    counts = "+".join(str(adapter.prompt_count) for adapter, _ in branches)
    depths = [adapter.prompt_depth for adapter, _ in branches]
    used = [(adapter.prompt_depth, len(tower.blocks)) for adapter, tower in branches if adapter.prompt_count]
    if all(depth == blocks for depth, blocks in used):
        return f"deep prompts {counts}"
    if all(depth == 1 for depth, _ in used):
        return f"shallow prompts {counts}"
    return f"prompts {counts}, depth {depths[0]}+{depths[1]}"
