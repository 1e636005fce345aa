"""Bias tuning: one learned vector per transformer block, added to every token (section 3.4 of arXiv 2312.11570).

What is learned: b_l, one vector of the branch's width for each block l of either branch; 12 * (768 + 512) = 15,360 numbers
on ViT-B/16. Where it attaches: x_l <- x_l + b_l after block l, for every token. How it merges: a block ends in
x + c_proj(.) + bias, so b_l folds exactly into `resblocks[l].mlp.c_proj.bias` and a stock CLIP remains.
"""

import torch
import torch.nn as nn
from torch import Tensor

from promptbias.utils.errors import UserError
from promptbias.model.templates import checked, template_of
from promptbias.model.encoder import Tuner
from promptbias.engine.trainer import TuningTrainer, add_config, register
from promptbias.model.tuned_clip import Learner, TunedCLIP, check_depth

add_config(
    "BIASTUNING",
    PREC="auto",  # fp32, fp16, amp, bf16 or auto
    TEMPLATE="",  # text around the class name, such as "a photo of a {}."; "" is the dataset's own
    DEPTH_VISION=-1,  # blocks of the image branch that get a bias, from the first on; -1: all
    DEPTH_TEXT=-1,
    INIT_STD=0.0,  # 0 starts from zero-shot CLIP
)


class BlockBias(Tuner):
    """A bias after each of the first `depth` blocks: `bias` (depth, D), drawn from N(0, std²)."""

    def __init__(self, depth: int, width: int, std: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(depth, width) * std if std else torch.zeros(depth, width))

    def after(self, i: int, x: Tensor) -> Tensor:
        return x + self.bias[i].to(x.dtype) if i < len(self.bias) else x

    @torch.no_grad()
    def fold(self, blocks: nn.Module) -> None:
        """Add the biases to `mlp.c_proj.bias` of the stock blocks, in place."""
        for block, bias in zip(blocks, self.bias):
            block.mlp.c_proj.bias += bias.to(block.mlp.c_proj.bias)


class CustomCLIP(TunedCLIP):
    """CLIP with block biases. `CustomCLIP(cfg, classnames, clip_model)` as everywhere in this family."""

    def __init__(self, cfg, classnames, clip_model) -> None:
        node = cfg.TRAINER.BIASTUNING
        super().__init__(
            cfg,
            classnames,
            clip_model,
            template=checked(node.TEMPLATE, "TRAINER.BIASTUNING.TEMPLATE") if node.TEMPLATE else template_of(cfg),
            precision=node.PREC,
        )
        tuners = {}
        for branch, tower in (("vision", self.vision), ("text", self.text)):
            key = f"DEPTH_{branch.upper()}"
            depth = len(tower.blocks) if node[key] == -1 else node[key]
            check_depth(f"TRAINER.BIASTUNING.{key}", depth, tower)
            tuners[branch] = BlockBias(depth, tower.width, node.INIT_STD)
        if not any(len(tuner.bias) for tuner in tuners.values()):
            raise UserError(
                "TRAINER.BIASTUNING.DEPTH_VISION and DEPTH_TEXT are both 0, so there is nothing to learn; "
                "for plain CLIP take --trainer ZeroshotCLIP"
            )
        self.learner = Learner(**tuners)

    def fold(self) -> nn.Module:
        """Move the biases into the stock CLIP, which then is the tuned model and is returned; the learned ones become 0."""
        for tuner, tower in ((self.learner.vision, self.vision), (self.learner.text, self.text)):
            tuner.fold(tower.blocks)
            nn.init.zeros_(tuner.bias)
        return self.text.clip


@register
class BiasTuning(TuningTrainer):
    """Dassl trainer of bias tuning."""

    custom_clip = CustomCLIP
    node = "BIASTUNING"
    learner_name = "BlockBias"
