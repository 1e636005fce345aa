"""Prompts to biases, without training.

If prompts worked as a bias, their mean contribution could stand in their place: m_l = E u_l W_O (see `decompose`), added to
`attn.out_proj.bias` of block l of the plain CLIP. The result is a stock CLIP without prompts; how much of the gain is left?
In the text branch SOS gets the bias too, though prompts, which come after it, give it nothing.
"""
import copy
from typing import Dict, Iterable, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

FOLDED = {"zero-shot": (0, 0), "image": (1, 0), "text": (0, 1), "both": (1, 1)}  # (image, text): with the biases or without


@torch.no_grad()
def with_biases(clip_model: nn.Module, m: Dict[str, Tensor]) -> nn.Module:
    """A copy of a stock CLIP with m (L, D) of each branch, "image" and "text", in the output biases of its attention."""
    stock = copy.deepcopy(clip_model)
    for branch, transformer in (("image", stock.visual.transformer), ("text", stock.transformer)):
        for block, bias in zip(transformer.resblocks, m[branch]):
            block.attn.out_proj.bias += bias
    return stock


@torch.no_grad()
def accuracies(
    clip_model: nn.Module, m: Dict[str, Tensor], tokens: Tensor, batches: Iterable[Tuple[Tensor, Tensor]]
) -> Tuple[Dict[str, float], int]:
    """Share of (image, label) batches that stock CLIPs get right, with the biases in neither, either or both branches.

    Args:
        clip_model: the plain stock CLIP, float32.
        tokens: (K, context length), the texts of the classes.
    """
    stocks = (clip_model, with_biases(clip_model, m))
    texts = [F.normalize(torch.cat([s.encode_text(t) for t in tokens.split(64)]), dim=-1) for s in stocks]
    right, count = dict.fromkeys(FOLDED, 0), 0
    for image, label in batches:
        images = [F.normalize(s.encode_image(image), dim=-1) for s in stocks]
        for name, (i, t) in FOLDED.items():
            right[name] += int(((images[i] @ texts[t].T).argmax(-1) == label).sum())
        count += len(label)
    return {name: n / count for name, n in right.items()}, count
