"""ProLIP: CLIP's own last visual projection, tuned (Fahes et al., 2024, arXiv 2410.05270).

What is trained: a change of the vision branch's projection P (D, joint width), from zero: a linear probe on the frozen
features before it that starts from zero-shot CLIP. Where it attaches: to that parameter. How it merges: the change is
added to P, and a stock CLIP remains.

The paper's penalty, lambda ‖P − P₀‖² with lambda = 1 / shots, is weight decay of the change: OPTIM.WEIGHT_DECAY is
twice lambda, 0.125 at 16 shots. It must enter the gradient, as it does in Adam and SGD (not in AdamW).
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


class Projection(Adapter):
    """A change of the branch's projection: `change` (D, joint width)."""

    attaches_to = ("proj",)

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(tower.projection.shape))

    def parameter(self, name: str, i: int, frozen: Tensor) -> Tensor:
        return (frozen.float() + self.change).to(frozen.dtype)


@dataclass
class ProLIPConfig(MethodConfig):
    """ProLIP has no options of its own."""

    node = "PROLIP"
    folds = True

    def adapters(self, vision: Tower, text: Tower) -> Adapters:
        return Adapters(Projection(vision), Adapter())


class CustomCLIP(ConfiguredCLIP):
    """CLIP with a tuned projection. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = ProLIPConfig


@register
class ProLIP(TuningTrainer):
    """Dassl trainer of ProLIP."""

    custom_clip = CustomCLIP
