"""Biases, and gains of LayerNorms, at any site of a branch's blocks. All of them fold into a stock CLIP.

A site is where a trainable vector is added, to every token alike. The stock CLIP has a vector of its own in each of
these places, into which ours is merged:

    q, k, v      queries, keys, values              attn.in_proj_bias, a third of it each
    attn.out     attention's output                 attn.out_proj.bias
    mlp.hidden   the MLP before its activation      mlp.c_fc.bias
    block        what the block returns             mlp.c_proj.bias, the last that a block adds
    ln.bias      after each LayerNorm               ln_1, ln_2; ln_pre, ln_post (vision); ln_final (text)
    ln.weight    the gain of each LayerNorm         the same
    features     the features (joint width)         bias u of the last LayerNorm, with u P = shift

A bias on the keys can do nothing: query q gives every key the additional score q b / sqrt(d), one and the same for all
of them, which softmax ignores. Its gradient is 0; it is there so that "all biases" can be said.

For `features`, u P = shift, with the branch's projection P (D, joint width), has a solution for every shift only where
P has as many independent columns as it has columns; so has every CLIP of OpenAI's whose joint width is at most D.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from promptbias.utils.errors import UserError, nearest

from .adapter import Adapter, fold_parameters
from .encoder import Tower
from .hooks import FEATURES

LAYER_NORMS = ("ln_1", "ln_2", "ln_pre", "ln_post", "ln_final")
# Site -> the stock CLIP's parameters that it changes.
PARAMETERS = {
    "q": ("attn.in_proj_bias",),
    "k": ("attn.in_proj_bias",),
    "v": ("attn.in_proj_bias",),
    "attn.out": ("attn.out_proj.bias",),
    "mlp.hidden": ("mlp.c_fc.bias",),
    "ln.bias": tuple(f"{norm}.bias" for norm in LAYER_NORMS),
    "ln.weight": tuple(f"{norm}.weight" for norm in LAYER_NORMS),
}
BLOCK = "block"
SITES = (*PARAMETERS, BLOCK, FEATURES)
BRANCHES = ("vision", "text")
LARGEST_CONDITION = 1e5  # of a projection, so that float32 can hold what a shift of the features folds into


def sites_of(branch: str, named: Sequence[str], key: str) -> tuple[str, ...]:
    """The sites of one branch, in the order of SITES: "v" means both branches, "vision.v" one.

    Args:
        branch: "vision" or "text".
        named: as in the configuration.
        key: where they were named, for the error.

    Raises:
        UserError: no such site.
    """
    known = (*SITES, *(f"{branch}.{site}" for branch in BRANCHES for site in SITES))
    for name in named:
        if name not in known:
            raise UserError(f'{key} names "{name}", which is no site: {nearest(name, known, SITES)}')
    return tuple(site for site in SITES if site in named or f"{branch}.{site}" in named)


class SiteBiases(Adapter):
    """Changes of a branch's biases and gains at some SITES, from N(0, std²), in its first `depth` blocks.

    What is in no block (`ln_pre`, `ln_post`, `ln_final`, `features`) belongs to every depth but 0.

    Attributes:
        bias: (depth, D), added after each block; None where "block" is none of the sites.
        changes: by "v@3" (site and block, from 0), "ln_1_weight@3", "ln_post_bias@-1" (in no block), or "features".

    Raises:
        UserError: the site "features" where its shift does not fold.
    """

    bias: nn.Parameter | None

    def __init__(self, tower: Tower, sites: Sequence[str], depth: int, std: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(initial(std, depth, tower.width)) if BLOCK in sites else None
        self.sites = tuple(sites) if depth else ()
        names = dict.fromkeys(name for site in self.sites for name in PARAMETERS.get(site, ()))
        activations = {BLOCK: "resid_post", FEATURES: FEATURES}
        self.attaches_to = (*names, *(point for site, point in activations.items() if site in self.sites))
        sizes = {}
        for name, i, frozen in self.attached(tower):
            pieces = self.pieces(name, i)
            wanted = [key for key in pieces if len(pieces) == 1 or key[0] in self.sites]
            sizes.update(dict.fromkeys(wanted if i < depth else [], len(frozen) // len(pieces)))
        if FEATURES in self.sites:
            refuse_unless_independent(tower.projection)
            sizes[FEATURES] = tower.projection.shape[1]
        self.changes = nn.ParameterDict({key: initial(std, size) for key, size in sizes.items()})

    @staticmethod
    def pieces(name: str, i: int) -> list[str]:
        """The keys of what, side by side, changes a parameter of block i."""
        if name == "attn.in_proj_bias":
            return [f"{site}@{i}" for site in "qkv"]
        return [f"{name}@{i}".replace(".", "_")]

    def parameter(self, name: str, i: int, frozen: Tensor) -> Tensor:
        pieces = self.pieces(name, i)
        if not any(key in self.changes for key in pieces):
            return frozen  # of a block beyond the depth
        zero = frozen.new_zeros(len(frozen) // len(pieces), dtype=torch.float32)
        change = torch.cat([self.changes.get(key, zero) for key in pieces])
        return (frozen.float() + change).to(frozen.dtype)

    def post_block(self, i: int, x: Tensor) -> Tensor:
        return x if self.bias is None or i >= len(self.bias) else x + self.bias[i].to(x.dtype)

    def on_activation(self, point: str, i: int, x: Tensor, source: Tensor | None) -> Tensor:
        return x + self.changes[FEATURES].to(x.dtype)

    @torch.no_grad()
    def fold(self, tower: Tower) -> None:
        """Merge all of it into the stock CLIP of `tower`, in place."""
        fold_parameters(self, tower)
        for block, bias in zip(tower.blocks, () if self.bias is None else self.bias):
            block.mlp.c_proj.bias += bias.to(block.mlp.c_proj.bias)
        if FEATURES in self.sites:
            bias = tower.outer[f"{tower.last_norm}.bias"]
            bias += (self.changes[FEATURES].double() @ torch.linalg.pinv(tower.projection.double())).to(bias)


def initial(std: float, *shape: int) -> Tensor:
    """Numbers from N(0, std²); none are drawn for 0."""
    return torch.randn(*shape) * std if std else torch.zeros(*shape)


def refuse_unless_independent(projection: Tensor) -> None:
    """Refuse a shift of the features for which no bias before the projection (D, joint width) can stand in.

    Raises:
        UserError: the projection's columns are not independent.
    """
    width, joint = projection.shape
    rank = int(torch.linalg.matrix_rank(projection.double(), rtol=1 / LARGEST_CONDITION))
    if rank < joint:
        raise UserError(
            f"a shift of all {joint} features does not fold into this CLIP, whose projection from {width} numbers "
            f'reaches {rank} dimensions; take the site "ln.bias" in place of "{FEATURES}"'
        )
