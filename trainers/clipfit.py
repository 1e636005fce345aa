"""CLIPFit: a few of CLIP's own biases and gains, kept near the zero-shot text (Li et al., 2024, arXiv 2409.16718).

What is trained: changes of the bias that ends each MLP of the text branch, and of all LayerNorms of the vision branch;
bias tuning at the sites "text.block", "vision.ln.weight" and "vision.ln.bias". Beside the cross-entropy stands a
consistency term, the mean over classes of 1 − cos between the tuned and the frozen text features, times 8 (from base to
new classes; for few-shot runs the authors take 8 on DTD and SUN397, and 2 elsewhere). It all folds, and a stock CLIP
remains.

The authors' weight decay pulls the parameters towards 0, ours their changes.
"""

from dataclasses import dataclass

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapters
from promptbias.model.biases import BLOCK, SiteBiases
from promptbias.model.encoder import Tower
from promptbias.model.method import MethodConfig


@dataclass
class CLIPFitConfig(MethodConfig):
    """CLIPFit has no options of its own; other sites and depths are bias tuning's."""

    node = "CLIPFIT"
    folds = True

    consistency: float = 8.0
    consistency_of: tuple[str, ...] = ("text",)

    def adapters(self, vision: Tower, text: Tower) -> Adapters:
        norms = SiteBiases(vision, ("ln.weight", "ln.bias"), len(vision.blocks))
        return Adapters(norms, SiteBiases(text, (BLOCK,), len(text.blocks)))


class CustomCLIP(ConfiguredCLIP):
    """CLIP with CLIPFit's changes. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = CLIPFitConfig


@register
class CLIPFit(TuningTrainer):
    """Dassl trainer of CLIPFit."""

    custom_clip = CustomCLIP
