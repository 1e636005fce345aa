"""Prompts to biases, without training.

If prompts worked as a bias, their mean contribution could stand in their place: m_l = E u_l W_O (see `decompose`),
added to `attn.out_proj.bias` of block l of the plain CLIP. The result is a stock CLIP without prompts; how much of
the gain is left? In the text branch SOS gets the bias too, though prompts, which come after it, give it nothing.
"""

import argparse
import copy
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from promptbias.model.templates import GENERIC

from . import figures
from .constancy import PromptTerm
from .decompose import ImageBranch, TextBranch, branches_with_prompts
from .mechanism import accuracies_of, sampling_error
from .run import Study

# What gets the biases (1) and what does not (0): the image branch, the text branch.
FOLDED = {"neither branch": (0, 0), "image branch": (1, 0), "text branch": (0, 1), "both branches": (1, 1)}


@torch.no_grad()
def with_biases(clip_model: nn.Module, m: dict[str, Tensor]) -> nn.Module:
    """A copy of a stock CLIP with m (L, D) of "image" and "text" added to the output biases of its attention."""
    stock = copy.deepcopy(clip_model)
    for branch, transformer in (("image", stock.visual.transformer), ("text", stock.transformer)):
        for block, bias in zip(transformer.resblocks, m[branch]):
            block.attn.out_proj.bias += bias
    return stock


@torch.no_grad()
def accuracies(
    clip_model: nn.Module, m: dict[str, Tensor], tokens: Tensor, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[dict[str, float], int]:
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(study: Study, args: argparse.Namespace) -> figures.Result:
    """Accuracy of stock CLIPs with the tuned run's m in their biases, beside the run itself and those to compare with.

    Raises:
        UserError: the tuned run has no prompts.
    """
    branches_with_prompts(study)
    words = (study.cfg.TRAINER.IVLP.CTX_INIT or "").replace("_", " ")
    template = f"{words} {{}}." if words else GENERIC
    result = figures.Result(
        "m is the mean, over the few-shot training images (for text over the classes), of what tokens gather from "
        "the prompts; there is one vector per block. Added to the output biases of the attention of plain CLIP it "
        f"takes the prompts' place: what results is a stock CLIP with {'CTX_INIT' if words else 'the usual words'} as "
        f"template (“{template}”), and nothing was trained. If prompts worked as a constant bias, biases in both branches "
        "would come close to the tuned run. In the text branch SOS gets the bias too, though prompts, which stand after "
        "it, give it nothing. Bars: 95 % interval for that many test images."
    )
    m = {}
    for branch in (ImageBranch(study.tuned), TextBranch(study.tuned)):
        m[branch.name] = PromptTerm(branch).stream(branch.batches(study, "train")).bias()
        result.numbers[f"{branch.name}_m"] = m[branch.name].cpu().numpy()
    tokens = study.plain_clip(template).text.tokens
    folded, count = accuracies(study.tuned.text.clip, m, tokens, study.batches("stock CLIP with biases"))
    tuned = {name: model for name, model in study.models.items() if model is not study.plain}
    shares = {f"biases in {name}": share for name, share in folded.items()}
    shares.update(accuracies_of(tuned, study.batches("tuned")))
    result.headlines = [(f"{name}: accuracy in %", 100 * share) for name, share in shares.items()]
    result.numbers.update(models=np.array(list(shares)), accuracy=np.array(list(shares.values())))
    result.numbers["images"] = np.array(count)
    result.figures["to-bias"] = plot(study, shares, count, template)
    return result


def plot(study: Study, shares: dict[str, float], count: int, template: str) -> figures.Figure:
    """Accuracies of the stock CLIPs with biases, then of tuned runs in their own colours."""
    labels = list(study.models)
    figure, axes = figures.subplots(height=0.6 + 0.28 * len(shares))
    ax = axes[0, 0]
    for at, (name, share) in enumerate(shares.items()):
        style, percent = figures.look(labels.index(name) if name in labels else 0), 100 * share
        error = 100 * sampling_error(np.array([share]), count)
        ax.errorbar([percent], [-at], xerr=error, fmt=style["marker"], color=style["color"], elinewidth=1, markersize=5)
        ax.annotate(
            f"{percent:.1f}", (percent, -at), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=7
        )
    ax.set_yticks([-at for at in range(len(shares))], list(shares))
    ax.set_ylim(0.4 - len(shares), 0.7)
    ax.set_xlabel("accuracy (%)")
    ax.set_title(f'stock CLIP with "{template}" and the biases of: {study.label}')
    return figure
