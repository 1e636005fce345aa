"""Bias tuning: one trainable vector per transformer block, added to every token (section 3.4 of arXiv 2312.11570).

What is trained: b_l, one vector of the branch's width for each block l of either branch; 12 * (768 + 512) = 15,360
parameters on ViT-B/16. Where it attaches: x_l <- x_l + b_l after block l, for every token. How it merges: a block ends
in x + c_proj(.) + bias, so b_l folds exactly into `resblocks[l].mlp.c_proj.bias` and a stock CLIP remains.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapter, Adapters
from promptbias.model.encoder import Tower
from promptbias.model.method import MethodConfig
from promptbias.utils.errors import UserError


class BlockBias(Adapter):
    """A bias after each of the first `depth` blocks: `bias` (depth, D), drawn from N(0, std²)."""

    attaches_to = ("resid_post",)

    def __init__(self, depth: int, width: int, std: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(depth, width) * std if std else torch.zeros(depth, width))

    def post_block(self, i: int, x: Tensor) -> Tensor:
        return x + self.bias[i].to(x.dtype) if i < self.bias.shape[0] else x

    @torch.no_grad()
    def fold(self, tower: Tower) -> None:
        """Add the biases to `mlp.c_proj.bias` of the stock blocks, in place."""
        for block, bias in zip(tower.blocks, self.bias):
            block.mlp.c_proj.bias += bias.to(block.mlp.c_proj.bias)


@dataclass
class BiasTuningConfig(MethodConfig):
    """Options of bias tuning.

    Attributes:
        depth_vision, depth_text: blocks of the branch that get a bias, from the first on; -1: all.
        init_std: 0 starts from zero-shot CLIP.
    """

    node = "BIASTUNING"
    folds = True

    depth_vision: int = -1
    depth_text: int = -1
    init_std: float = 0.0

    def adapters(self, vision: Tower, text: Tower) -> Adapters:
        depths = self.depth("depth_vision", vision), self.depth("depth_text", text)
        if not any(depths):
            raise UserError(
                f"{self.key('depth_vision')} and DEPTH_TEXT are both 0, so there is nothing to train; "
                "for plain CLIP take --trainer ZeroshotCLIP"
            )
        return Adapters(*(BlockBias(depth, tower.width, self.init_std) for depth, tower in zip(depths, (vision, text))))

    def label(self, model) -> str:
        depths = len(model.adapters.vision.bias), len(model.adapters.text.bias)
        full = len(model.vision.blocks), len(model.text.blocks)
        return "bias" if depths == full else f"bias, depth {depths[0]}+{depths[1]}"


class CustomCLIP(ConfiguredCLIP):
    """CLIP with block biases. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = BiasTuningConfig


@register
class BiasTuning(TuningTrainer):
    """Dassl trainer of bias tuning."""

    custom_clip = CustomCLIP
    model_name = "BlockBias"
