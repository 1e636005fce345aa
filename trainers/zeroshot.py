"""Zero-shot CLIP: the dataset's template around the class names, nothing trained; the baseline."""

from dataclasses import dataclass

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapter, Adapters
from promptbias.model.encoder import Tower
from promptbias.model.method import MethodConfig


@dataclass
class ZeroshotConfig(MethodConfig):
    """Zero-shot CLIP has no options."""

    node = "ZEROSHOTCLIP"
    folds = True
    trains = False

    def adapters(self, vision: Tower, text: Tower) -> Adapters:
        return Adapters(Adapter(), Adapter())

    def label(self, model) -> str:
        return f'zero-shot "{model.template}"'


class CustomCLIP(ConfiguredCLIP):
    """CLIP as it is. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = ZeroshotConfig


@register
class ZeroshotCLIP(TuningTrainer):
    """Dassl trainer of zero-shot CLIP: training it is testing it."""

    custom_clip = CustomCLIP
