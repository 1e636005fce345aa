"""LayerNorm tuning (Basu et al., 2024; Kim et al., 2021).

What is trained: a change of every LayerNorm's weight and bias, from zero, in both branches, outside of the blocks too.
Where it attaches: to these parameters. How it merges: the changes are added to them, and a stock CLIP remains.
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

NORMS = ("ln_1", "ln_2", "ln_pre", "ln_post", "ln_final")


class LayerNorms(Adapter):
    """A change (D,) of each LayerNorm's weight and bias in a branch; block -1 is outside of the blocks."""

    attaches_to = tuple(f"{norm}.{kind}" for norm in NORMS for kind in ("weight", "bias"))

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        zeros = {f"{name}@{i}": torch.zeros(tower.width) for name, i, _ in self.attached(tower)}
        self.changes = nn.ParameterDict({key.replace(".", "_"): zero for key, zero in zeros.items()})

    def parameter(self, name: str, i: int, frozen: Tensor) -> Tensor:
        return (frozen.float() + self.changes[f"{name}@{i}".replace(".", "_")]).to(frozen.dtype)


@dataclass
class LNTuningConfig(MethodConfig):
    """LayerNorm tuning has no options."""

    node = "LNTUNING"
    folds = True

    def adapters(self, vision: Tower, text: Tower) -> Adapters:
        return Adapters(LayerNorms(vision), LayerNorms(text))


class CustomCLIP(ConfiguredCLIP):
    """`CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = LNTuningConfig


@register
class LNTuning(TuningTrainer):
    """Dassl trainer of LayerNorm tuning."""

    custom_clip = CustomCLIP
