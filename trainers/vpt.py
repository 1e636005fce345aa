"""VPT: visual prompt tuning, shallow or deep (Jia et al., 2022), of CLIP's vision branch.

What is trained: a few tokens for each of the first `depth` blocks of the vision branch; the text branch stays as it is.
Where they attach: after the patches; every block up to `depth` first replaces those it receives by its own. They do not
fold: a stock CLIP has no place for them.
"""

from dataclasses import dataclass

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapter, Adapters
from promptbias.model.encoder import Tower, VisionTower
from promptbias.model.method import MethodConfig
from promptbias.model.prompts import VisionPrompts, prompts_label
from promptbias.utils.errors import UserError


@dataclass
class VPTConfig(MethodConfig):
    """Options of VPT.

    Attributes:
        n_ctx: prompts per block.
        depth_vision: blocks with prompts; 1: shallow, -1: all, deep.
    """

    node = "VPT"

    n_ctx: int = 4
    depth_vision: int = -1

    def adapters(self, vision: VisionTower, text: Tower) -> Adapters:
        if self.n_ctx < 1:
            raise UserError(f"{self.key('n_ctx')} is {self.n_ctx}, but at least 1 prompt is needed")
        depth = self.depth("depth_vision", vision, at_least=1)
        return Adapters(VisionPrompts(depth, self.n_ctx, vision.width, at=1 + vision.patches), Adapter())

    def label(self, model) -> str:
        return prompts_label(model)


class CustomCLIP(ConfiguredCLIP):
    """CLIP with vision prompts. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = VPTConfig


@register
class VPT(TuningTrainer):
    """Dassl trainer of visual prompt tuning."""

    custom_clip = CustomCLIP
