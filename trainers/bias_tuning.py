"""Bias tuning: one trainable vector per transformer block, added to every token (section 3.4 of arXiv 2312.11570).

What is trained: b_l, one vector of the branch's width for each block l of either branch; 12 * (768 + 512) = 15,360
parameters on ViT-B/16. Where it attaches: x_l <- x_l + b_l after block l, for every token. How it merges: a block ends
in x + c_proj(.) + bias, so b_l folds exactly into `resblocks[l].mlp.c_proj.bias` and a stock CLIP remains.

That is the site "block", the default. SITES takes any others in its place, or beside it (`promptbias.model.biases`);
all of them fold. BitFit, BEFT and LayerNorm tuning are such sets: see configs/trainers/BiasTuning/.
"""

from dataclasses import dataclass

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapters
from promptbias.model.biases import BLOCK, BRANCHES, SiteBiases, sites_of
from promptbias.model.encoder import Tower
from promptbias.model.method import MethodConfig
from promptbias.utils.errors import UserError


@dataclass
class BiasTuningConfig(MethodConfig):
    """Options of bias tuning.

    Attributes:
        sites: where biases are added: "v" in both branches, "vision.v" or "text.v" in one.
        depth_vision, depth_text: blocks of the branch that get biases, from the first on; -1: all.
        init_std: 0 starts from zero-shot CLIP.
    """

    node = "BIASTUNING"
    folds = True

    depth_vision: int = -1
    depth_text: int = -1
    init_std: float = 0.0
    sites: tuple[str, ...] = (BLOCK,)

    def adapters(self, vision: Tower, text: Tower) -> Adapters:
        depths = self.depth("depth_vision", vision), self.depth("depth_text", text)
        if not any(depths):
            raise UserError(
                f"{self.key('depth_vision')} and DEPTH_TEXT are both 0, so there is nothing to train; "
                "for plain CLIP take --trainer ZeroshotCLIP"
            )
        sites = [sites_of(branch, self.sites, self.key("sites")) for branch in BRANCHES]
        built = [SiteBiases(*args, self.init_std) for args in zip((vision, text), sites, depths)]
        if not any(adapter.attaches_to for adapter in built):
            raise UserError(f"{self.key('sites')} is {list(self.sites)}, which leaves nothing to train at these depths")
        return Adapters(*built)

    def label(self, model) -> str:
        of_sites = "" if set(self.sites) == {BLOCK} else f" at {', '.join(self.sites)}"
        depths = self.depth("depth_vision", model.vision), self.depth("depth_text", model.text)
        full = len(model.vision.blocks), len(model.text.blocks)
        return f"bias{of_sites}" if depths == full else f"bias{of_sites}, depth {depths[0]}+{depths[1]}"


class CustomCLIP(ConfiguredCLIP):
    """CLIP with block biases. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = BiasTuningConfig


@register
class BiasTuning(TuningTrainer):
    """Dassl trainer of bias tuning."""

    custom_clip = CustomCLIP
    model_name = "BlockBias"
