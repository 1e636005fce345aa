"""IVLP: independent deep vision-language prompts (section 2.2 of arXiv 2312.11570; the baseline of PromptSRC).

What is trained: for each branch and each of its first `depth` blocks a few tokens of their own. Where they attach: in
the vision branch after the patches, in the text branch between SOS and what is left of the template; every block up to
`depth` first replaces the prompts that it receives by its own. They do not fold: a stock CLIP has no place for them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from promptbias.engine.custom_clip import ConfiguredCLIP
from promptbias.engine.registry import register
from promptbias.engine.trainer import TuningTrainer
from promptbias.model.adapter import Adapter, Adapters
from promptbias.model.encoder import TextTower, VisionTower
from promptbias.model.method import MethodConfig
from promptbias.model.prompts import (
    DeepPrompts,
    VisionPrompts,
    placeholders,
    prompts_label,
    start_from_words,
    word_ids,
)
from promptbias.model.templates import GENERIC, validate_template
from promptbias.utils.errors import UserError

LONGEST_CTX_INIT = 4


@dataclass
class IVLPConfig(MethodConfig):
    """Options of IVLP, under the names that the family uses.

    Attributes:
        n_ctx_vision, n_ctx_text: V and T, prompts per block of the branch.
        ctx_init: words that the first text prompts start from, if T <= 4; "" starts from N(0, 0.02²).
        prompt_depth_vision: blocks with prompts; 0: none, 1: shallow, -1: all, deep.
        prompt_depth_text: at least 1; -1: all.
    """

    node = "IVLP"
    uses_template = False

    n_ctx_vision: int = 4
    n_ctx_text: int = 4
    ctx_init: str = "a photo of a"
    prompt_depth_vision: int = -1
    prompt_depth_text: int = -1

    @property
    def words(self) -> str:
        """The words of CTX_INIT as text."""
        return (self.ctx_init or "").replace("_", " ")

    def template_for(self, template: str) -> str:
        if self.n_ctx_text < 1:
            raise UserError(f"{self.key('n_ctx_text')} is {self.n_ctx_text}, but at least 1 text prompt is needed")
        words = self.words if self.n_ctx_text <= LONGEST_CTX_INIT else ""
        return validate_template(f"{words or placeholders(self.n_ctx_text)} {{}}.", self.key("ctx_init"))

    def base_template(self, template: str) -> str:
        return f"{self.words} {{}}." if self.words else GENERIC

    def adapters(self, vision: VisionTower, text: TextTower) -> Adapters:
        V, T = self.n_ctx_vision, self.n_ctx_text
        depths = self.depth("prompt_depth_vision", vision), self.depth("prompt_depth_text", text, at_least=1)
        if V < 1 and depths[0]:
            raise UserError(f"{self.key('n_ctx_vision')} is {V}; for no vision prompts set PROMPT_DEPTH_VISION to 0")
        of_text = DeepPrompts(depths[1], T, text.width, at=1)
        of_vision = VisionPrompts(depths[0], V, vision.width, at=1 + vision.patches) if depths[0] else Adapter()
        if self.words and T <= LONGEST_CTX_INIT:
            if len(word_ids(self.words, text.clip)) < T:
                raise UserError(
                    f'{self.key("ctx_init")} "{self.words}" has fewer than N_CTX_TEXT = {T} tokens; '
                    'add words, or set CTX_INIT to "" to start from random prompts'
                )
            start_from_words(of_text, self.words, text.clip)
        return Adapters(of_vision, of_text)

    def label(self, model) -> str:
        return prompts_label(model)

    def convert_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """PromptSRC's checkpoint keys to ours."""
        if "prompt_learner.ctx" not in state:
            return state
        first = {"text.prompts": "prompt_learner.ctx", "vision.prompts": "image_encoder.VPT"}
        deeper = {"text.prompts": "text_encoder", "vision.prompts": "image_encoder"}
        converted = {}
        for key, name in first.items():
            if name in state:
                blocks = [state[name]]
                while (block := f"{deeper[key]}.transformer.resblocks.{len(blocks)}.VPT_shallow") in state:
                    blocks.append(state[block])
                converted[key] = torch.stack(blocks).float()
        return converted


class CustomCLIP(ConfiguredCLIP):
    """CLIP with deep prompts. `CustomCLIP(cfg, classnames, clip_model)` as is usual in this family."""

    config = IVLPConfig


@register
class IVLP(TuningTrainer):
    """Dassl trainer of independent deep vision-language prompts."""

    custom_clip = CustomCLIP
    model_name = "VLPromptLearner"  # the name in PromptSRC's checkpoints, so that they are found
    default_config = "{}_prompt"
