"""What each text token and image patch contributes to the alignment (section 3.2.2, figs. 2, 3 and 8-23)."""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from promptbias.interp.relevancy import relevancy, shares
from promptbias.interp.statistics import Means, column_masks, rank_correlation
from promptbias.interp.token_layout import end_name, text_columns
from promptbias.utils.errors import UserError

from .arguments import block_indices
from .comparison import ZERO_SHOT, Comparison
from .figures import Result, legend, style, subplots, theme, wrap
from .inset_plot import MAX_TICKS, Inset, plot_curves, set_named_ticks

KINDS = ("SOS", "prompts", "template", "class", "end")  # of text tokens, as in `text_columns`
HATCHES = ("", "///", "...", "xxx")
MAX_PROMPTS_IN_INSET = 12  # text prompts; more fill the figure anyway


@dataclass
class ModelContribution:
    """Shares of relevancy in one model, averaged over images. M patches, V vision prompts, N text positions.

    Attributes:
        text: (N,) by position; 0 from EOS on.
        text_kinds: (5,) added up by KINDS.
        vision: (M + V,) of patches and prompts.
        patches_alone: (M,) of patches among themselves.
        rank_correlation: with CLIP's patch relevancy, mean over images.
        curve_rank_correlation: the same of the mean curves.
        class_start: first position of the class name.
        text_end: last position of EOS in any text.
    """

    text: np.ndarray
    text_kinds: np.ndarray
    vision: np.ndarray
    patches_alone: np.ndarray
    rank_correlation: float
    curve_rank_correlation: float
    class_start: int
    text_end: int


@dataclass
class Contribution:
    """Contributions in every model of a comparison, over one set of images.

    Attributes:
        models: label -> contributions, plain CLIP first.
        kind_names: what KINDS are called in figures.
        patches: M.
        count: images.
        select: "all", or "corrected" for those that CLIP gets wrong and the tuned run gets right.
        template_note: a sentence on the models' templates, or "".
    """

    models: dict[str, ModelContribution]
    kind_names: list[str]
    patches: int
    count: int
    select: str
    template_note: str

    @property
    def vision_length(self) -> int:
        """M and the largest number of vision prompts."""
        return max(len(model.vision) for model in self.models.values())

    @property
    def context_length(self) -> int:
        """The largest number of positions before a class name, SOS included."""
        return max(model.class_start for model in self.models.values())

    @property
    def text_inset(self) -> bool:
        """Whether there is something before the class name to enlarge, and room for it."""
        return 1 < self.context_length <= 1 + MAX_PROMPTS_IN_INSET


def compute(comparison: Comparison, select: str = "all", first_block: int = 0) -> Contribution:
    """Contributions over the test images.

    Args:
        select: "all", or "corrected" for the images that CLIP gets wrong and the tuned run gets right.
        first_block: the block (from 0) at which relevancy starts.

    Raises:
        UserError: no image is corrected.
    """
    means = {label: Means() for label in comparison.models}
    classes = range(len(comparison.classnames))
    columns = {label: [text_columns(model, k) for k in classes] for label, model in comparison.models.items()}
    count = 0
    for image, label in comparison.batches("contribution"):
        if select == "corrected":
            chosen = corrected(comparison, image, label)
            image, label = image[chosen], label[chosen]
        count += len(label)
        if len(label):
            add_batch(comparison, means, columns, image, label, first_block)
    if not count:
        raise UserError(
            f"none of the {len(comparison)} images is misclassified by zero-shot CLIP and corrected by "
            f"{comparison.label}; use --select all or more --samples"
        )
    plain = torch.from_numpy(means[ZERO_SHOT]["patches alone"])
    models = {}
    for name, model in comparison.models.items():
        found = means[name]
        models[name] = ModelContribution(
            text=found["text"],
            text_kinds=found["text kinds"],
            vision=found["vision"],
            patches_alone=found["patches alone"],
            rank_correlation=float(found["rank correlation"]),
            curve_rank_correlation=float(rank_correlation(plain, torch.from_numpy(found["patches alone"]))),
            class_start=columns[name][0]["class"].start,
            text_end=int(model.text.tokens.argmax(-1).max()),
        )
    kinds = ["SOS", "prompts", "template words", "class name", end_name(comparison.models.values())]
    M = comparison.plain.vision.patches
    return Contribution(models, kinds, M, count, select, comparison.template_note())


@torch.no_grad()
def corrected(comparison: Comparison, image: Tensor, label: Tensor) -> Tensor:
    """Which images (B, 3, S, S) plain CLIP gets wrong and the tuned run gets right: (B,)."""
    plain, tuned = (model(image).argmax(-1) == label for model in (comparison.plain, comparison.tuned))
    return ~plain & tuned


def add_batch(
    comparison: Comparison, means: dict[str, Means], columns: dict[str, list], image: Tensor, label: Tensor, first: int
) -> None:
    """Add a batch of images (B, 3, S, S) with labels (B,) to the means of every model."""
    M = comparison.plain.vision.patches
    plain_patches = None
    for name, model in comparison.models.items():
        found = relevancy(model, image, label, first)
        text = torch.zeros(len(label), model.context_length)
        text[:, : found.text.shape[1]] = shares(found.text)
        masks = column_masks([columns[name][k] for k in label.tolist()], model.context_length)
        patches = found.vision[:, :M].cpu()
        plain_patches = patches if plain_patches is None else plain_patches
        means[name].add("text", text)
        means[name].add("text kinds", torch.stack([(text * masks[kind]).sum(-1) for kind in KINDS], -1))
        means[name].add("vision", shares(found.vision))
        means[name].add("patches alone", shares(patches))
        means[name].add("rank correlation", rank_correlation(plain_patches, patches))


def plot(contribution: Contribution) -> dict[str, Figure]:
    return {
        "contribution-text": text_figure(contribution),
        "contribution-vision": vision_figure(contribution),
        "contribution-kinds": kinds_figure(contribution),
    }


@theme()
def text_figure(contribution: Contribution) -> Figure:
    """Figure 2: shares by position. All contexts begin at the left, and all class names at the dividing line."""
    context = contribution.context_length
    length = max(model.text_end - model.class_start for model in contribution.models.values()) + 2
    curves = {}
    for name, model in contribution.models.items():
        start, y = model.class_start, model.text
        after = y[start : start + length]
        curves[name] = [(np.arange(start), y[:start]), (context + np.arange(len(after)), after)]
    inset = None
    if contribution.text_inset:
        inset = Inset("prompts or template words", (0.5, context - 0.5), (0.5, context - 0.5))
    figure, ax = plot_curves(curves, context - 0.5, (-0.5, context + length - 0.5), inset)
    prompts = [f"P{i}" for i in range(1, context)]
    set_named_ticks(ax, 0, ["SOS", *prompts, *map(str, range(1, length + 1))])
    ax.set_xlabel(f"SOS, prompts or template words P  |  class name, {contribution.kind_names[-1]}, EOS and padding")
    for small in ax.child_axes:
        set_named_ticks(small, 1, prompts)
    return figure


@theme()
def vision_figure(contribution: Contribution) -> Figure:
    """Figure 3: shares of patches and prompts."""
    M, end = contribution.patches, contribution.vision_length
    curves = {}
    for name, model in contribution.models.items():
        x = np.arange(len(model.vision))
        curves[name] = [(x[:M], model.vision[:M]), (x[M:], model.vision[M:])]
    first, inset = max(0, M - 6), None
    if end > M:
        inset = Inset("last patches  |  prompts", (first - 0.5, end - 0.5), (0.25 * M, 0.75 * M))
    figure, ax = plot_curves(curves, M - 0.5, (-1, end + 1 if end > M else M - 0.5), inset)
    ax.set_xlabel(f"patch, row by row (0 to {M - 1})" + ("  |  prompt" if end > M else ""))
    for small in ax.child_axes:
        names = [*map(str, range(first, M)), *(f"P{i + 1}" for i in range(end - M))]
        set_named_ticks(small, first, names, MAX_TICKS * M // end)  # the more prompts, the narrower is the inset
    return figure


@theme()
def kinds_figure(contribution: Contribution) -> Figure:
    """The same shares, added up by kind of token."""
    M, models = contribution.patches, contribution.models
    text = {name: dict(zip(contribution.kind_names, model.text_kinds)) for name, model in models.items()}
    vision = {
        name: {"patches": model.vision[:M].sum(), "prompts": model.vision[M:].sum()} for name, model in models.items()
    }
    figure, axes = subplots(1, 2, height=2.5, sharey=True, width_ratios=[5, 2])
    width = 0.8 / len(models)
    for ax, values, title in zip(axes[0], (text, vision), ("text", "vision")):
        for index, (name, by_kind) in enumerate(values.items()):
            x = np.arange(len(by_kind)) + (index - (len(models) - 1) / 2) * width
            fill = {"color": style(index)["color"], "hatch": HATCHES[index % len(HATCHES)]}
            label = name if title == "text" else ""
            ax.bar(x, list(by_kind.values()), width * 0.92, edgecolor="white", linewidth=0, label=label, **fill)
            ax.set_xticks(range(len(by_kind)), [wrap(kind, 16) for kind in by_kind])
        ax.set_title(title)
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("share of relevancy")
    legend(figure)
    return figure


def describe(contribution: Contribution) -> str:
    selected = " that zero-shot CLIP gets wrong and the tuned run gets right" if contribution.select != "all" else ""
    prompts = contribution.vision_length > contribution.patches
    insets = prompts or contribution.text_inset
    return (
        "How much each token contributes to the score of an image with its own class: its share of all relevancy, "
        f"averaged over {contribution.count} test images{selected}. Text: left of the line SOS and the prompts or "
        f"template words, right of it the class name and what follows it ({contribution.kind_names[-1]}), then zero "
        "from EOS on. Vision: the patches, row by row"
        + (", left of the line, and right of it the prompts, each summed over the blocks" if prompts else "")
        + ". The bars add the same shares up by kind of token. The paper expects the share of SOS and prompts to grow, "
        "that of the class name to fall, and the ranking of patches to stay (rank correlation near 1)."
        + (" Insets enlarge the prompts." if insets else "")
        + contribution.template_note
    )


def headlines(contribution: Contribution) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = [("images", contribution.count)]
    for name, model in contribution.models.items():
        for kind, share in zip(contribution.kind_names, model.text_kinds):
            found.append((f"text share of {kind}, {name}", float(share)))
        found.append((f"vision share of prompts, {name}", float(model.vision[contribution.patches :].sum())))
        if name != ZERO_SHOT:
            what = f"rank correlation of patch relevancy with {ZERO_SHOT}, image by image, {name}"
            found.append((what, model.rank_correlation))
            found.append((f"the same of the mean curves, {name}", model.curve_rank_correlation))
    return found


def arrays(contribution: Contribution) -> dict[str, np.ndarray]:
    found = {}
    for name, model in contribution.models.items():
        for what in ("text", "text kinds", "vision", "patches alone", "rank correlation"):
            found[f"{name}: {what}"] = np.asarray(getattr(model, what.replace(" ", "_")))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--select",
        choices=("all", "corrected"),
        default="all",
        help="all test images, or those that zero-shot CLIP gets wrong and the tuned run gets right",
    )
    parser.add_argument(
        "--first-block",
        type=int,
        default=1,
        metavar="N",
        help="block at which relevancy starts (default: 1; Chefer et al.'s notebook uses only the last)",
    )


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    towers = (comparison.plain.vision, comparison.plain.text)
    first_block = max(block_indices([args.first_block], tower)[0] for tower in towers)
    found = compute(comparison, args.select, first_block)
    return Result(describe(found), headlines(found), plot(found), arrays(found))
