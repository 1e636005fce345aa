"""Zero-shot CLIP: the dataset's template around the class names, nothing learned (the first column of the paper's tables)."""

from promptbias.model.templates import checked, template_of
from promptbias.model.encoder import Tuner
from promptbias.engine.trainer import TuningTrainer, add_config, register
from promptbias.model.tuned_clip import Learner, TunedCLIP

add_config(
    "ZEROSHOTCLIP",
    PREC="auto",  # fp32, fp16, amp, bf16 or auto
    TEMPLATE="",  # text around the class name, such as "a photo of a {}."; "" is the dataset's own
)


class CustomCLIP(TunedCLIP):
    """CLIP as it is. `CustomCLIP(cfg, classnames, clip_model)` as everywhere in this family."""

    def __init__(self, cfg, classnames, clip_model) -> None:
        node = cfg.TRAINER.ZEROSHOTCLIP
        template = checked(node.TEMPLATE, "TRAINER.ZEROSHOTCLIP.TEMPLATE") if node.TEMPLATE else template_of(cfg)
        super().__init__(cfg, classnames, clip_model, template=template, precision=node.PREC)
        self.learner = Learner(vision=Tuner(), text=Tuner())


@register
class ZeroshotCLIP(TuningTrainer):
    """Dassl trainer of zero-shot CLIP: training it is testing it."""

    custom_clip = CustomCLIP
    node = "ZEROSHOTCLIP"

    def train(self) -> None:
        self.max_epoch = 0
        super().train()

    @classmethod
    def checkpoint_in(cls, directory, epoch=None) -> str:
        """Empty: nothing was learned."""
        return ""

    def load_model(self, directory, epoch=None) -> None:
        """Nothing was learned, so nothing is loaded."""
