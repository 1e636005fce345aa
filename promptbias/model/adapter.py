"""What a method trains in one branch, and where it attaches.

An adapter attaches to activations (before and after a block, or at a named point inside) or to parameters, of which it
makes others: LayerNorm's weight, a linear layer's bias. What attaches to parameters alone folds into a stock CLIP.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn as nn
from torch import Tensor

from .hooks import EMBEDDINGS, FEATURES, IN_BLOCK
from .prepacked_linear import EVERY

if TYPE_CHECKING:
    from .encoder import Tower

# Parameters of a block, by their names in the stock CLIP; and of a tower, outside of its blocks: LayerNorms (vision;
# text), and the projection to the joint space.
BLOCK_PARAMETERS = tuple(
    f"{layer}.{kind}" if layer != "attn.in_proj" else f"attn.in_proj_{kind}"
    for layer in ("ln_1", "attn.in_proj", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for kind in ("weight", "bias")
)
TOWER_PARAMETERS = (
    *(f"{layer}.{kind}" for layer in ("ln_pre", "ln_post", "ln_final") for kind in ("weight", "bias")),
    "proj",
)
# Activations that it can change, token by token. Attention itself is for hooks.
POINTS = (EMBEDDINGS, *(name for name in IN_BLOCK if name not in ("attn.pattern", "attn.z")), FEATURES)
OUTSIDE = -1  # the block of what is in no block


class Adapter(nn.Module):
    """The trainable parameters of one branch. This one has none: it is plain CLIP.

    Tokens are (..., N, D), in whatever layout; a method changes each by itself, or (in `on_embeddings` and `pre_block`)
    puts prompts in place of some.

    Attributes:
        attaches_to: names of POINTS and of parameters. Only what is named here is called.
        prompts_at: the rows where prompts stand among the tokens (none here).
        prompt_depth: so many blocks have prompts of their own, and throw away those of the block before.
    """

    attaches_to: tuple[str, ...] = ()
    prompts_at = slice(0, 0)
    prompt_depth = 0

    def on_embeddings(self, x: Tensor) -> Tensor:
        """Tokens as embedded: words before their positions, or [cls] and patches before `ln_pre`."""
        return x

    def pre_block(self, i: int, x: Tensor) -> Tensor:
        """What block i (from 0) receives."""
        return x

    def post_block(self, i: int, x: Tensor) -> Tensor:
        """What block i returned."""
        return x

    def on_activation(self, point: str, i: int, x: Tensor, source: Tensor | None) -> Tensor:
        """The activation at another point of `attaches_to` in block i.

        Args:
            source: what the linear layer was applied to, at the points that are the output of one.
        """
        raise NotImplementedError(f"{type(self).__name__} attaches to {point}, but does not say what happens there")

    def parameter(self, name: str, i: int, frozen: Tensor) -> Tensor:
        """What takes the place of a parameter of `attaches_to` in block i (or OUTSIDE), in its dtype."""
        raise NotImplementedError(f"{type(self).__name__} attaches to {name}, but does not say what takes its place")

    def live_rows(self, i: int) -> slice:
        """The rows of block i's output that are still read afterwards."""
        return EVERY

    @property
    def prompt_count(self) -> int:
        """Prompts among the tokens of a block."""
        return self.prompts_at.stop - self.prompts_at.start

    @torch.no_grad()
    def fold(self, tower: "Tower") -> None:
        """Put the changed parameters into the stock CLIP of `tower`, in place.

        Raises:
            NotImplementedError: it attaches to activations, for which a stock CLIP has no place.
        """
        activations = [name for name in self.attaches_to if name in POINTS]
        if activations:
            raise NotImplementedError(f"{type(self).__name__} changes {', '.join(activations)} and does not fold")
        fold_parameters(self, tower)

    def attached(self, tower: "Tower") -> Iterator[tuple[str, int, Tensor]]:
        """(name, block, frozen parameter) of all parameters of `tower` that it attaches to."""
        for name in self.attaches_to:
            if name in BLOCK_PARAMETERS:
                for i, block in enumerate(tower.blocks):
                    yield name, i, block.get_parameter(name)
            elif name in TOWER_PARAMETERS and name in tower.outer:
                yield name, OUTSIDE, tower.outer[name]


def fold_parameters(adapter: Adapter, tower: "Tower") -> None:
    """Put the parameters that an adapter has changed in the place of the stock CLIP's own."""
    changed = [(frozen, adapter.parameter(name, i, frozen)) for name, i, frozen in adapter.attached(tower)]
    for frozen, value in changed:
        frozen.copy_(value)


class Adapters(nn.Module):
    """All that a method trains, and all that a checkpoint holds: one adapter for each branch."""

    def __init__(self, vision: Adapter, text: Adapter) -> None:
        super().__init__()
        self.vision, self.text = vision, text

    @property
    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters())
