"""Which mechanism does the work?

The paper has three hypotheses: prompts work through the attention among the inputs (i), as a bias (ii), or both are
needed (iii). Here the tuned model runs again with parts of what its inputs gather (see `decompose`), in one branch
while the other is whole, and in both; b_O always stays. The accuracy of each is a causal test.
"""

import argparse
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from promptbias.model.encoder import split_heads
from promptbias.model.tuned_clip import TunedCLIP

from . import figures
from .constancy import PromptTerm
from .decompose import PLAIN, Branch, ImageBranch, Parts, TakenApart, TextBranch, branches_with_prompts
from .run import ZERO_SHOT, Study


class Given(NamedTuple):
    """What a variant may take from elsewhere, for one block."""

    m: Tensor  # (H, 1, d), mean of u over the inputs of the few-shot training images, or over those of the classes
    tuned: Tensor  # (B, H, n, n), attention among inputs in the untouched tuned model
    plain: Tensor  # (B, H, n, n), the same in the plain CLIP


# What an input gathers in each variant, from the parts of the variant's own run and what it is given.
VARIANTS: dict[str, Callable[[Parts, Given], Tensor]] = {
    "full": lambda p, given: (1 - p.pi) * (p.a @ p.v) + p.u,
    "rescaled": lambda p, given: (1 - p.pi) * (p.a @ p.v),
    "bias only": lambda p, given: p.a @ p.v + p.u,
    "constant bias": lambda p, given: p.a @ p.v + p.sees_prompts * given.m,
    "none": lambda p, given: p.a @ p.v,
    "transplanted attention": lambda p, given: given.tuned @ p.v,
    "frozen attention": lambda p, given: given.plain @ p.v + p.u,
}

WHERE = ("image", "text", "both")


class Variant(TakenApart):
    """Runs one of `VARIANTS`, given what `Given` says for every block; m is (L, D), heads side by side."""

    def __init__(self, name: str, prompts_at: slice, m: Tensor, tuned: list[Tensor], plain: list[Tensor]) -> None:
        super().__init__(prompts_at)
        self.gathers = VARIANTS[name]
        self.m, self.tuned, self.plain = m, tuned, plain

    def update(self, i: int, parts: Parts) -> Tensor:
        m = split_heads(self.m[i][None], parts.u.shape[1])
        return self.gathers(parts, Given(m, self.tuned[i], self.plain[i]))


def variant_features(branch: Branch, batch: Tensor, m: Tensor) -> Tensor:
    """Unit vectors of a batch in all variants, (len(VARIANTS), B, joint width). m (L, D) as `PromptTerm.gathered`."""
    tuned, plain = branch.attention(batch).a, branch.attention(batch, PLAIN).a
    at = branch.tuner.prompts_at
    return torch.stack([branch.features(batch, Variant(name, at, m, tuned, plain)) for name in VARIANTS])


def accuracies(model: TunedCLIP, m: dict[str, Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, int]:
    """Share of (image, label) batches that each variant gets right, (len(WHERE), len(VARIANTS)), and their number.

    Args:
        m: `PromptTerm.gathered` of each branch by name, "image" and "text".
    """
    image_branch, text_branch = ImageBranch(model), TextBranch(model)
    texts = torch.cat([variant_features(text_branch, which, m["text"]) for which in text_branch.classes()], 1)
    right, count = torch.zeros(len(WHERE), len(VARIANTS)), 0
    for image, label in batches:
        images = variant_features(image_branch, image, m["image"])
        logits = (images @ texts[0].T, images[0] @ texts.transpose(1, 2), images @ texts.transpose(1, 2))
        right += torch.stack([(scores.argmax(-1) == label).sum(-1) for scores in logits]).cpu()
        count += len(label)
    return right / count, count


@torch.no_grad()
def accuracies_of(models: dict[str, TunedCLIP], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Share of (image, label) batches that each model gets right, as it is."""
    right, count = dict.fromkeys(models, 0), 0
    for image, label in batches:
        for name, model in models.items():
            right[name] += int((model(image).argmax(-1) == label).sum())
        count += len(label)
    return {name: n / count for name, n in right.items()}


def sampling_error(share: np.ndarray, count: int) -> np.ndarray:
    """Distance of the 95 % interval's lower and upper end from a share of `count` samples, (2, ...) (Wilson, 1927)."""
    z2 = 1.96**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (z2 * (share * (1 - share) / count + z2 / (4 * count**2))) ** 0.5 / (1 + z2 / count)
    return np.maximum(np.stack([share - centre + half, centre + half - share]), 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(study: Study, args: argparse.Namespace) -> figures.Result:
    """Accuracy of every variant over the test set.

    Raises:
        UserError: the tuned run has no prompts.
    """
    result = figures.Result(
        "Each point is the tuned model with something taken away from what the prompts of one branch, or of both, "
        "do; the other branch is whole. a: attention among the inputs; π: attention mass on the prompts; u: what is "
        "gathered from the prompts; m: mean of u over the few-shot training images (for text over the classes), one "
        "vector per block, which is a bias. If prompts worked through attention alone, rescaled and transplanted "
        "attention would keep the accuracy of the full model; if as a bias alone, bias only, constant bias and "
        "frozen attention would. Bars: 95 % interval of the accuracy for that many test images."
    )
    with_prompts = {branch.name for branch in branches_with_prompts(study)}
    if "text" in with_prompts:
        result.how_to_read += (
            " Text prompts stand in the place of template words: without them (none) their positions stay empty, so that "
            "text features are not those of zero-shot CLIP. Frozen attention of text is that of the plain text with the "
            "template words left out and the rest renormalised."
        )
    branches = (ImageBranch(study.tuned), TextBranch(study.tuned))
    m = {branch.name: PromptTerm(branch).stream(branch.batches(study, "train")).gathered() for branch in branches}
    shares, count = accuracies(study.tuned, m, study.batches("variants"))
    references = {name: study.models[name] for name in (ZERO_SHOT, study.label)}
    untouched = accuracies_of(references, study.batches("zero-shot and tuned"))
    shown = [where for where in WHERE if where in with_prompts or len(with_prompts) == 2]
    shares = shares.numpy()[[WHERE.index(where) for where in shown]]

    result.headlines += [(f"{name}: accuracy in %", 100 * share) for name, share in untouched.items()]
    result.headlines += [
        (f"{variant}, {where} prompts: accuracy in %", 100 * float(share))
        for where, row in zip(shown, shares)
        for variant, share in zip(VARIANTS, row)
    ]
    result.numbers.update(variants=np.array(list(VARIANTS)), where=np.array(shown))
    result.numbers.update(accuracy=shares, images=np.array(count))
    result.numbers.update({f"{name}_m": value.cpu().numpy() for name, value in m.items()})
    result.figures["mechanism"] = plot(shown, shares, count, untouched, study.label)
    return result


FORMULAS = dict(
    zip(
        VARIANTS,
        (
            "(1−π) a v + u",
            "(1−π) a v",
            "a v + u",
            "a v + m",
            "a v",
            "a v, a of the full model",
            "a v + u, a of plain CLIP",
        ),
    )
)


def plot(shown: list[str], shares: np.ndarray, count: int, untouched: dict[str, float], label: str) -> figures.Figure:
    """One panel per branch or both: accuracy of each variant, with lines at the tuned model and zero-shot CLIP."""
    figure, axes = figures.subplots(1, len(shown), height=3.2, sharey=True, sharex=True)
    y = np.arange(len(VARIANTS))[::-1]
    behind_number = {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    for ax, where, row in zip(axes[0], shown, shares):
        for index, (name, share) in enumerate(untouched.items()):
            look = figures.look(index)
            ax.axvline(
                100 * share,
                color=look["color"],
                linestyle=look["linestyle"],
                linewidth=1,
                label=(name, f"{label}, untouched")[index],
            )
        error = 100 * sampling_error(row, count)
        ax.errorbar(100 * row, y, xerr=error, fmt="o", color="#333333", elinewidth=1, markersize=4)
        for at, share in zip(y, row):
            ax.annotate(
                f"{100 * share:.1f}",
                (100 * share, at),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                bbox=behind_number,
            )
        ax.set_title("both branches" if where == "both" else f"{where} branch")
        ax.set_xlabel("accuracy (%)")
    axes[0, 0].set_yticks(y, [f"{name}\n{FORMULAS[name]}" for name in VARIANTS], va="center")
    axes[0, 0].set_ylim(-0.6, len(VARIANTS) - 0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
