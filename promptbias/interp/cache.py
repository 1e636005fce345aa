"""Activations of a forward pass, and their gradients.

    with capture(model.vision, "blocks.*.attn.pattern", gradient=True) as cache:
        y = model.logit_scale * (model.image_features(image) * model.text_features()[label]).sum()
        (gradient,) = gradients(y, cache)
    cache["blocks.11.attn.pattern"], gradient["blocks.11.attn.pattern"]  # (B, H, N, N), float32

Outside the context the tower is as it was, and as fast. `promptbias.model.hooks` lists the names; `token_layout` tells
what the rows and columns are.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from promptbias.model.encoder import Tower
from promptbias.model.hooks import Point

PATTERN = "attn.pattern"
RESID_PRE = "resid_pre"


class ActivationCache(Mapping[str, Tensor]):
    """Activations by the names of their points ("blocks.3.attn.pattern"), in the order of the computation."""

    def __init__(self, values: dict[str, Tensor] | None = None) -> None:
        self.values_by_name: dict[str, Tensor] = values if values is not None else {}

    def __getitem__(self, name: str) -> Tensor:
        return self.values_by_name[name]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(value.shape)}" for name, value in self.items())
        return f"ActivationCache({shapes})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def by_block(self, name: str) -> dict[int, Tensor]:
        """The values at one point of the blocks, such as "attn.pattern": block (from 0) -> value."""
        found = {}
        for key, value in self.items():
            prefix, _, point = key.partition(".")
            block, _, point = point.partition(".")
            if prefix == "blocks" and point == name:
                found[int(block)] = value
        return found


@contextlib.contextmanager
def capture(tower: Tower, *patterns: str, gradient: bool = False) -> Iterator[ActivationCache]:
    """Keep activations of forward passes through `tower` while the context lasts; each pass replaces the one before.

    Args:
        patterns: such as "blocks.*.attn.pattern" or "blocks.11.resid_post"; default: every attention pattern.
        gradient: needed for `gradients`. While the context lasts autograd is on if this is set, and off otherwise.

    Raises:
        UserError: a pattern that matches no point.
    """
    cache = ActivationCache()

    def keep(value: Tensor, point: Point) -> None:
        # With all parameters frozen the graph begins at the first of these: nothing before it costs a backward pass.
        cache.values_by_name[str(point)] = value.requires_grad_() if gradient else value

    hooks = dict.fromkeys(patterns or (f"blocks.*.{PATTERN}",), keep)
    with torch.set_grad_enabled(gradient), tower.hooked(hooks):
        yield cache


def gradients(y: Tensor, *caches: ActivationCache) -> list[ActivationCache]:
    """∂y/∂x of every x in the caches (of one or both towers), in one backward pass.

    Args:
        y: a scalar. A sum over the samples of a batch gives each its own gradient, as they do not depend on each other.
        caches: from `capture(..., gradient=True)`.

    Returns:
        One cache for each, with the same names.
    """
    found = iter(torch.autograd.grad(y, [value for cache in caches for value in cache.values()]))
    return [ActivationCache({name: next(found) for name in cache}) for cache in caches]
