"""LayerNorm tuning (Basu et al., 2024; Kim et al., 2021).

What is trained: a change of every LayerNorm's weight and bias, from zero, in both branches, outside of the blocks too.
Where it attaches: to these parameters. How it merges: the changes are added to them, and a stock CLIP remains.
"""

from dataclasses import dataclass

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapters
from promptbias.model.biases import SiteBiases
from promptbias.model.encoder import Tower
from promptbias.model.method import MethodConfig


@dataclass
class LNTuningConfig(MethodConfig):
    """LayerNorm tuning has no options of its own; bias tuning with these two sites has a depth too."""

    node = "LNTUNING"
    folds = True

    def adapters(self, vision: Tower, text: Tower) -> Adapters:
        sites = ("ln.weight", "ln.bias")
        return Adapters(*(SiteBiases(tower, sites, len(tower.blocks)) for tower in (vision, text)))


class CustomCLIP(ConfiguredCLIP):
    """`CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = LNTuningConfig


@register
class LNTuning(TuningTrainer):
    """Dassl trainer of LayerNorm tuning."""

    custom_clip = CustomCLIP
