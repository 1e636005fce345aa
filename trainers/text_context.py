"""A text context: CoOp's unified context, with the class name at the end (Zhou et al., 2022).

What is trained: the embeddings of the first words of the text, the same ones for all classes. Where they attach:
between SOS and the class name, in front of the first block. They do not fold, a stock CLIP has no place for them; but
the text features are computed once, so that inference costs nothing more.

CoOp's own checkpoints load. It is not called CoOp, since a CoOp checkout has a trainer of that name.
"""

from dataclasses import dataclass

from torch import Tensor

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapter, Adapters
from promptbias.model.encoder import TextTower, Tower
from promptbias.model.method import MethodConfig
from promptbias.model.prompts import DeepPrompts, placeholders, start_from_words, word_ids
from promptbias.model.templates import GENERIC, validate_template
from promptbias.utils.errors import UserError


@dataclass
class TextContextConfig(MethodConfig):
    """Options of a text context, under CoOp's names.

    Attributes:
        ctx_init: words that the context starts from, as many vectors as they have tokens; "" starts from N(0, 0.02²).
        n_ctx: vectors where there are no words.
    """

    node = "TEXTCONTEXT"
    uses_template = False

    n_ctx: int = 16
    ctx_init: str = "a photo of a"

    @property
    def words(self) -> str:
        """The words of CTX_INIT as text."""
        return (self.ctx_init or "").replace("_", " ")

    def template_for(self, template: str) -> str:
        if not self.words and self.n_ctx < 1:
            raise UserError(f"{self.key('n_ctx')} is {self.n_ctx}, but at least 1 context vector is needed")
        return validate_template(f"{self.words or placeholders(self.n_ctx)} {{}}.", self.key("ctx_init"))

    def base_template(self, template: str) -> str:
        return template if self.words else GENERIC

    def adapters(self, vision: Tower, text: TextTower) -> Adapters:
        n = len(word_ids(self.words, text.clip)) if self.words else self.n_ctx
        context = DeepPrompts(1, n, text.width, at=1)
        if self.words:
            start_from_words(context, self.words, text.clip)
        return Adapters(Adapter(), context)

    def label(self, model) -> str:
        return f"text context {model.adapters.text.prompt_count}"

    def convert_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """CoOp's checkpoint keys to ours."""
        return {"text.prompts": state["ctx"][None].float()} if "ctx" in state else state


class CustomCLIP(ConfiguredCLIP):
    """CLIP with a text context. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = TextContextConfig


@register
class TextContext(TuningTrainer):
    """Dassl trainer of a text context."""

    custom_clip = CustomCLIP
    model_name = "prompt_learner"  # the name in CoOp's checkpoints, so that they are found
