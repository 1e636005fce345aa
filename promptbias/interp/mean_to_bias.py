"""Prompts turned into biases, without training.

If prompts worked as a bias, their mean contribution could take their place: m_l = E u_l W_O (see `prompt_term`), added
to `attn.out_proj.bias` of block l of the base CLIP. The result is a stock CLIP without prompts. In the text branch SOS
gets the bias too, though it comes before the prompts and so gathers nothing from them.
"""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptbias.model.templates import fill, tokenize
from promptbias.model.tuned_clip import TunedCLIP

from .accuracy import LabelledImages

TEXTS_AT_ONCE = 64
# Where the biases go (1) and where not (0): the vision branch, the text branch.
BIASED = {"neither branch": (0, 0), "vision branch": (1, 0), "text branch": (0, 1), "both branches": (1, 1)}


@torch.no_grad()
def with_mean_biases(clip_model: Any, m: dict[str, Tensor]) -> Any:
    """A copy of a stock CLIP with m (L, D) of "vision" and "text" added to the output biases of its attention."""
    stock = copy.deepcopy(clip_model)
    for branch, transformer in (("vision", stock.visual.transformer), ("text", stock.transformer)):
        for block, bias in zip(transformer.resblocks, m[branch]):
            block.attn.out_proj.bias += bias
    return stock


def base_tokens(model: TunedCLIP) -> Tensor:
    """Token ids (K, context length) of the texts that the base CLIP has in the place of the tuned model's."""
    texts = fill(model.method.base_template(model.template), model.classnames)
    return tokenize(texts, model.classnames, model.context_length).to(model.text.tokens.device)


@torch.no_grad()
def biased_clip_outcomes(
    clip_model: Any, m: dict[str, Tensor], tokens: Tensor, batches: LabelledImages
) -> dict[str, np.ndarray]:
    """Whether stock CLIPs with biases in the branches of BIASED get each of I images right: (I,), bool.

    Args:
        clip_model: the base CLIP, float32; it stays as it is.
        m: `PromptTerm.bias` of each branch by name.
        tokens: (K, context length), the texts of the classes.
    """
    stocks = (clip_model, with_mean_biases(clip_model, m))
    texts = [F.normalize(torch.cat([s.encode_text(t) for t in tokens.split(TEXTS_AT_ONCE)]), dim=-1) for s in stocks]
    found: dict[str, list[Tensor]] = {name: [] for name in BIASED}
    for image, label in batches:
        images = [F.normalize(s.encode_image(image), dim=-1) for s in stocks]
        for name, (vision, text) in BIASED.items():
            found[name].append(((images[vision] @ texts[text].T).argmax(-1) == label).cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}
