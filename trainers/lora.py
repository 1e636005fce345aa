"""LoRA: low-rank changes of attention's weights (Hu et al., 2022), in CLIP-LoRA's setting (Zanella & Ben Ayed, 2024).

What is trained: for the weights W of some of q, k, v and o in each block of either branch, A (rank, D), drawn as a
linear layer's weight is, and B (D, rank), from zero. Where it attaches: to x Wᵀ, alpha/sqrt(rank) dropout(x) Aᵀ Bᵀ is
added. That factor is CLIP-LoRA's (and rsLoRA's); LoRA's own is alpha/rank. How it merges: W + alpha/sqrt(rank) B A
takes W's place, and a stock CLIP remains.

Texts share the tokens of their common prefix here, and so the dropout in it; in CLIP-LoRA each text draws its own.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapter, Adapters
from promptbias.model.encoder import Tower
from promptbias.model.method import MethodConfig
from promptbias.utils.errors import UserError

# Weight -> the point that it computes.
POINTS = {"q": "attn.q", "k": "attn.k", "v": "attn.v", "o": "attn.out"}


class LowRank(Adapter):
    """Low-rank changes in the first `depth` blocks: by weight, `A` (depth, rank, D) and `B` (depth, D, rank)."""

    def __init__(
        self, weights: tuple[str, ...], depth: int, width: int, rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__()
        weights = tuple(weight for weight in POINTS if weight in weights) if depth else ()
        self.attaches_to = tuple(POINTS[weight] for weight in weights)
        self.depth, self.dropout, self.scale = depth, dropout, alpha / math.sqrt(rank)
        bound = 1 / math.sqrt(width)
        self.A = nn.ParameterDict(
            {weight: torch.empty(depth, rank, width).uniform_(-bound, bound) for weight in weights}
        )
        self.B = nn.ParameterDict({weight: torch.zeros(depth, width, rank) for weight in weights})

    def on_activation(self, point: str, i: int, x: Tensor, source: Tensor | None) -> Tensor:
        if i >= self.depth:
            return x
        assert source is not None, "queries, keys, values and attention's output come from linear layers"
        weight = point.removeprefix("attn.")[0]
        A, B = (self.scale * self.A[weight][i]).to(x.dtype), self.B[weight][i].to(x.dtype)
        return x + F.linear(F.linear(F.dropout(source, self.dropout, self.training), A), B)

    @torch.no_grad()
    def fold(self, tower: Tower) -> None:
        """Add the low-rank products to the weights of the stock blocks, in place."""
        for weight in self.A:
            for block, A, B in zip(tower.blocks, self.A[weight], self.B[weight]):
                rows = (
                    block.attn.out_proj.weight
                    if weight == "o"
                    else block.attn.in_proj_weight.chunk(3)["qkv".index(weight)]
                )
                rows += (self.scale * B @ A).to(rows)


@dataclass
class LoRAConfig(MethodConfig):
    """Options of LoRA; the defaults are CLIP-LoRA's.

    Attributes:
        rank: of the changes.
        alpha: their scale is alpha/sqrt(rank).
        dropout: share of the input that is dropped on the way to A.
        weights: those that change, of q, k, v and o (attention's output projection).
        depth_vision, depth_text: blocks of the branch that change, from the first on; -1: all.
    """

    node = "LORA"
    folds = True

    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    weights: tuple[str, ...] = ("q", "k", "v")
    depth_vision: int = -1
    depth_text: int = -1

    def adapters(self, vision: Tower, text: Tower) -> Adapters:
        if self.rank < 1:
            raise UserError(f"{self.key('rank')} is {self.rank}, but must be at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"{self.key('dropout')} is {self.dropout}, but must be at least 0 and below 1")
        if not self.weights or set(self.weights) - set(POINTS):
            raise UserError(f"{self.key('weights')} is {list(self.weights)}, but must be some of {', '.join(POINTS)}")
        depths = self.depth("depth_vision", vision), self.depth("depth_text", text)
        if not any(depths):
            raise UserError(f"{self.key('depth_vision')} and DEPTH_TEXT are both 0, so there is nothing to train")
        settings = self.rank, self.alpha, self.dropout
        built = [
            LowRank(tuple(self.weights), depth, tower.width, *settings) for depth, tower in zip(depths, (vision, text))
        ]
        return Adapters(*built)

    def label(self, model) -> str:
        return f"LoRA, rank {self.rank}"


class CustomCLIP(ConfiguredCLIP):
    """CLIP with low-rank changes. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = LoRAConfig


@register
class LoRA(TuningTrainer):
    """Dassl trainer of LoRA."""

    custom_clip = CustomCLIP
