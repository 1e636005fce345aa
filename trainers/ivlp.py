"""IVLP: independent deep vision-language prompts (section 2.2 of arXiv 2312.11570; the baseline of PromptSRC).

What is learned: for each branch and each of its first `depth` blocks a few tokens of their own. Where they attach: in the
vision branch after the patches, in the text branch between SOS and what is left of the template; every block up to `depth`
first replaces the prompts that it receives by its own. They do not merge: a stock CLIP has no place for them.
"""

import torch
import torch.nn as nn
from torch import Tensor

from promptbias.utils.errors import UserError
from promptbias.model.templates import checked
from promptbias.model.encoder import EVERY, Tuner
from promptbias.engine.trainer import TuningTrainer, add_config, register
from promptbias.model.tuned_clip import Learner, TunedCLIP, check_depth

add_config(
    "IVLP",
    N_CTX_VISION=4,  # V, prompts per block of the vision branch
    N_CTX_TEXT=4,  # T, prompts per block of the text branch
    CTX_INIT="a photo of a",  # words that the first text prompts start from, if T <= 4
    PREC="auto",  # fp32, fp16, amp, bf16 or auto
    PROMPT_DEPTH_VISION=12,  # 0: no vision prompts, 1: shallow, 12: deep on ViT-B/16
    PROMPT_DEPTH_TEXT=12,  # at least 1
)

INIT_STD = 0.02
LONGEST_CTX_INIT = 4


class DeepPrompts(Tuner):
    """`n` prompts of its own for each of the first `depth` blocks: `prompts` (depth, n, D), from N(0, 0.02²).

    Args:
        at: the row of the first prompt.
    """

    def __init__(self, depth: int, n: int, width: int, at: int) -> None:
        super().__init__()
        self.prompts = nn.Parameter(INIT_STD * torch.randn(depth, n, width))
        self.prompts_at = slice(at, at + n)

    def put(self, x: Tensor, prompts: Tensor) -> Tensor:
        """Tokens (..., N, D) with `prompts` (n, D) in the place of what stands there, if anything does."""
        first, end = self.prompts_at.start, self.prompts_at.stop
        prompts = prompts.to(x.dtype).expand(*x.shape[:-2], -1, -1)
        return torch.cat([x[..., :first, :], prompts, x[..., end:, :]], -2)

    def start(self, x: Tensor) -> Tensor:
        return self.put(x, self.prompts[0])

    def before(self, i: int, x: Tensor) -> Tensor:
        return self.put(x, self.prompts[i]) if 0 < i < len(self.prompts) else x


class VisionPrompts(DeepPrompts):
    """Prompts after [cls] and the patches."""

    def read_after(self, i: int) -> slice:
        replaced_next = i + 1 < len(self.prompts)
        return slice(self.prompts_at.start) if replaced_next else EVERY


class CustomCLIP(TunedCLIP):
    """CLIP with deep prompts. `CustomCLIP(cfg, classnames, clip_model)` as everywhere in this family."""

    def __init__(self, cfg, classnames, clip_model) -> None:
        node = cfg.TRAINER.IVLP
        T, V = node.N_CTX_TEXT, node.N_CTX_VISION
        if T < 1:
            raise UserError(f"TRAINER.IVLP.N_CTX_TEXT is {T}, but at least 1 text prompt is needed")
        if V < 1 and node.PROMPT_DEPTH_VISION > 0:
            raise UserError(f"TRAINER.IVLP.N_CTX_VISION is {V}; for no vision prompts set PROMPT_DEPTH_VISION to 0")
        words = (node.CTX_INIT or "").replace("_", " ") if T <= LONGEST_CTX_INIT else ""
        context = words or " ".join(["X"] * T)
        super().__init__(
            cfg,
            classnames,
            clip_model,
            template=checked(context + " {}.", "TRAINER.IVLP.CTX_INIT"),
            precision=node.PREC,
        )
        check_depth("TRAINER.IVLP.PROMPT_DEPTH_VISION", node.PROMPT_DEPTH_VISION, self.vision)
        check_depth("TRAINER.IVLP.PROMPT_DEPTH_TEXT", node.PROMPT_DEPTH_TEXT, self.text, at_least=1)
        text = DeepPrompts(node.PROMPT_DEPTH_TEXT, T, self.text.width, at=1)
        vision = Tuner()
        if node.PROMPT_DEPTH_VISION > 0:
            vision = VisionPrompts(node.PROMPT_DEPTH_VISION, V, self.vision.width, at=1 + self.vision.patches)
        if words:
            ids = self.tokens_of([words], ["CTX_INIT"])[0, 1:]
            if int(ids.argmax()) < T:
                raise UserError(
                    f'TRAINER.IVLP.CTX_INIT "{words}" has fewer than N_CTX_TEXT = {T} tokens; '
                    'add words, or set CTX_INIT to "" to start from random prompts'
                )
            with torch.no_grad():
                text.prompts[0] = clip_model.token_embedding(ids[:T])
        self.learner = Learner(vision=vision, text=text)


@register
class IVLP(TuningTrainer):
    """Dassl trainer of independent deep vision-language prompts."""

    custom_clip = CustomCLIP
    node = "IVLP"
    learner_name = "VLPromptLearner"  # the name in PromptSRC's checkpoints, so that they are found
    default_config = "{}_prompt"

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """PromptSRC's checkpoint keys to ours; other states pass as they are."""
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
