"""What each text token and image patch contributes to the alignment (section 3.2.2, figs. 2, 3 and 8-23)."""

import argparse

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from promptbias.interp.token_layout import end_name
from promptbias.utils.errors import UserError

from .arguments import block_indices
from .comparison import ZERO_SHOT, Comparison
from .estimates import mean_estimates
from .figures import Result, legend, style, subplots, theme, wrap
from .findings import SIMILAR, Finding
from .inset_plot import MAX_TICKS, Inset, plot_curves, set_named_ticks
from .shares import KINDS, Contribution, ModelContribution, SharesByImage

HATCHES = ("", "///", "...", "xxx")


def compute(comparison: Comparison, select: str = "all", first_block: int = 0) -> Contribution:
    """Contributions over the test images.

    Args:
        select: "all", or "corrected" for the images that CLIP gets wrong and the tuned run gets right.
        first_block: the block (from 0) at which relevancy starts.

    Raises:
        UserError: no image is corrected, or none has any relevancy in one of the models.
    """
    found = {label: SharesByImage(model) for label, model in comparison.models.items()}
    count = 0
    for image, label in comparison.batches("contribution"):
        if select == "corrected":
            chosen = corrected(comparison, image, label)
            image, label = image[chosen], label[chosen]
        count += len(label)
        plain_patches = None
        for shares_of_model in found.values():
            if len(label):
                patches = shares_of_model.add(image, label, first_block, plain_patches)
                plain_patches = patches if plain_patches is None else plain_patches
    if not count:
        raise UserError(
            f"none of the {len(comparison)} images is misclassified by zero-shot CLIP and corrected by "
            f"{comparison.label}; use --select all or more --samples"
        )
    for name, of_model in found.items():
        for what in SharesByImage.MEANS:
            if what not in of_model.means:
                raise UserError(
                    f"from block {first_block + 1} on, no image has any relevancy ({what}) in {name}; start at an "
                    "earlier --first-block or use more --samples"
                )
    plain = found[ZERO_SHOT].means["patches alone"]
    kinds = ["SOS", "prompts", "template words", "class name", end_name(comparison.models.values())]
    return Contribution(
        models={name: of_model.contribution(plain) for name, of_model in found.items()},
        kind_names=kinds,
        patches=comparison.plain.vision.patches,
        select=select,
        first_block=first_block,
        template_note=comparison.template_note(),
    )


@torch.no_grad()
def corrected(comparison: Comparison, image: Tensor, label: Tensor) -> Tensor:
    """Which images (B, 3, S, S) plain CLIP gets wrong and the tuned run gets right: (B,)."""
    plain, tuned = (model(image).argmax(-1) == label for model in (comparison.plain, comparison.tuned))
    return ~plain & tuned


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
    """The same shares, added up by kind of token; whiskers are their standard deviation over images."""
    models = contribution.models
    text = {name: model.text_kinds_by_image for name, model in models.items()}
    vision = {
        name: np.stack([1 - model.vision_prompts_by_image, model.vision_prompts_by_image], 1)
        for name, model in models.items()
    }
    figure, axes = subplots(1, 2, height=2.5, sharey=True, width_ratios=[5, 2])
    width = 0.8 / len(models)
    panels = ("text", contribution.kind_names, text), ("vision", ["patches", "prompts"], vision)
    for ax, (title, kinds, by_image) in zip(axes[0], panels):
        for index, (name, values) in enumerate(by_image.items()):
            x = np.arange(len(kinds)) + (index - (len(models) - 1) / 2) * width
            fill = {"color": style(index)["color"], "hatch": HATCHES[index % len(HATCHES)]}
            label = name if title == "text" else ""
            ax.bar(x, np.nanmean(values, 0), width * 0.92, edgecolor="white", linewidth=0, label=label, **fill)
            ax.errorbar(x, np.nanmean(values, 0), np.nanstd(values, 0), fmt="none", ecolor="0.2", elinewidth=0.7)
        ax.set_xticks(range(len(kinds)), [wrap(kind, 16) for kind in kinds])
        ax.set_title(title)
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("share of relevancy")
    axes[0, 0].set_ylim(bottom=0)
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
        + ". The bars add the same shares up by kind of token; whiskers are the standard deviation over images. The "
        "paper expects the share of SOS and prompts to grow, that of the class name to fall, and the ranking of "
        "patches to stay (rank correlation near 1)."
        + (" Insets enlarge the prompts." if insets else "")
        + left_out(contribution)
        + contribution.template_note
    )


def left_out(contribution: Contribution) -> str:
    """A sentence on images without any relevancy, where there are some; otherwise ""."""
    empty = [
        f"{count} in the {branch} branch of {name}"
        for name, model in contribution.models.items()
        for branch, count in model.without_relevancy.items()
        if count
    ]
    if not empty:
        return ""
    start = f"relevancy from block {contribution.first_block + 1} on" if contribution.first_block else "relevancy"
    return f" Images without any {start} have no shares and are left out of the means: {', '.join(empty)}."


def headlines(contribution: Contribution) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = [("images", contribution.count)]
    plain = shares_by_image(contribution, contribution.models[ZERO_SHOT])
    for name, model in contribution.models.items():
        by_image = shares_by_image(contribution, model)
        spread = np.nanstd(list(by_image.values()), -1)
        for (what, values), std in zip(by_image.items(), spread):
            found.append((f"{what}, {name}", float(np.nanmean(values))))
            found.append((f"{what}, {name}: std over images", float(std)))
        if name != ZERO_SHOT:
            changes = mean_estimates(np.stack([values - plain[what] for what, values in by_image.items()]))
            found += [(f"{what}, {name} minus {ZERO_SHOT}", change) for what, change in zip(by_image, changes)]
            what = f"rank correlation of patch relevancy with {ZERO_SHOT}, image by image, {name}"
            found.append((what, mean_estimates(model.rank_correlation_by_image[None])[0]))
            found.append((f"the same of the mean curves, {name}", model.curve_rank_correlation))
        found += [
            (f"images without relevancy, {branch}, {name}", count)
            for branch, count in model.without_relevancy.items()
            if count
        ]
    return found


def findings(contribution: Contribution) -> list[Finding]:
    """Of section 3.2.2, on the tuned run. The findings on text are those of prompts in place of template words."""
    plain, tuned = list(contribution.models.values())[:2]
    found = []
    if np.nanmax(tuned.text_kinds_by_image[:, KINDS.index("prompts")]) > 0:
        change = 100 * (tuned.text_kinds_by_image - plain.text_kinds_by_image).T  # (5, I), as KINDS
        sos, context, name = change[0], change[1] + change[2], change[3]
        points = "change of its share of relevancy, points"
        estimates = mean_estimates(np.stack([name, context, sos, sos - context]))
        found += [
            Finding.of("Text: the class name contributes less", points, estimates[0], 0, above=False),
            Finding.of("Text: prompts contribute more than the words that they replace", points, estimates[1], 0),
            Finding.of("Text: SOS contributes more", points, estimates[2], 0),
            Finding.of("Text: SOS grows most", "its change minus that of the prompts, points", estimates[3], 0),
        ]
    prompts = len(tuned.vision) - contribution.patches
    if prompts:
        share = mean_estimates(100 * tuned.vision_prompts_by_image[None])[0]
        of_tokens = 100 * prompts / (contribution.patches + prompts)
        quantity = "their share of relevancy, % (the bound is their share of the tokens)"
        found.append(Finding.of("Vision: prompts take a prominent share", quantity, share, round(of_tokens, 1)))
    ranks = mean_estimates(tuned.rank_correlation_by_image[None])[0]
    same = "rank correlation with CLIP's, image by image"
    return [*found, Finding.of("Vision: the ranking of patches stays", same, ranks, SIMILAR)]


def shares_by_image(contribution: Contribution, model: ModelContribution) -> dict[str, np.ndarray]:
    """Name -> (I,)."""
    text = {
        f"text share of {kind}": values for kind, values in zip(contribution.kind_names, model.text_kinds_by_image.T)
    }
    return {**text, "vision share of prompts": model.vision_prompts_by_image}


def arrays(contribution: Contribution) -> dict[str, np.ndarray]:
    """What is by image has one row for each, in the order of the test set; NaN where there is no relevancy."""
    names = (
        *("text", "text kinds", "vision", "patches alone", "rank correlation"),
        *("text kinds by image", "vision prompts by image", "rank correlation by image"),
    )
    return {
        f"{label}: {what}": np.asarray(getattr(model, what.replace(" ", "_")))
        for label, model in contribution.models.items()
        for what in names
    }


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
    return Result(describe(found), headlines(found), plot(found), arrays(found), found, findings(found))
