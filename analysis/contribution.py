"""What each text token and image patch contributes to the alignment (section 3.2.2, figs. 2, 3 and 8-23)."""

import argparse

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from promptbias.utils.errors import UserError
from promptbias.model.tuned_clip import TunedCLIP

from .figures import Result, legend, look, subplots, wrapped
from promptbias.interp.cache import end_name, text_columns
from promptbias.interp.relevancy import check_first_block, relevancy, shares
from .run import ZERO_SHOT, Study
from promptbias.interp.statistics import Means, groups, rank_correlation

HOW_TO_READ = (
    "How much of the score of an image with its own class comes from each token, as a share of all (relevancy, averaged "
    "over {count} test images{which}). Text: left of the line SOS and the prompts or template words, right of it the class "
    "name and what follows it ({end}), then zero from EOS on. Image: the patches, row by row{prompts}. The bars add the "
    "same up by kind of token. The paper expects the share of SOS and prompts to grow, that of the class name to fall, and "
    "the ranking of patches to stay (rank correlation near 1)."
)
OF_PROMPTS = ", left of the line, and right of it the prompts, each summed over the blocks"
KINDS = {"SOS": "SOS", "prompts": "prompts", "template": "template words", "class": "class name", "end": "“.”"}
MOST_TICKS = 15  # with names, so that they do not run into each other
MOST_ENLARGED = 12  # text prompts; more fill the figure anyway


def kinds_of(study: Study) -> dict[str, str]:
    """KINDS, with the right name for what stands after the class name."""
    return {**KINDS, "end": end_name(study.models.values())}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--select",
        choices=("all", "corrected"),
        default="all",
        help="all test images, or those that zero-shot CLIP gets wrong and the tuned run right",
    )
    parser.add_argument(
        "--first-block",
        type=int,
        default=1,
        metavar="N",
        help="block at which relevancy starts (default: 1; the last one is Chefer et al.'s notebook)",
    )


def class_start(model: TunedCLIP) -> int:
    """The column of the first token of the class name, in all texts."""
    return text_columns(model, 0)["class"].start


def run(study: Study, args: argparse.Namespace) -> Result:
    first_block = max(check_first_block(tower, args.first_block) for tower in (study.plain.vision, study.plain.text))
    means = {label: Means() for label in study.models}
    classes = range(len(study.classnames))
    columns = {label: [text_columns(model, k) for k in classes] for label, model in study.models.items()}
    count = 0
    for image, label in study.batches("contribution"):
        if args.select == "corrected":
            with torch.no_grad():
                by_plain, by_tuned = (model(image).argmax(-1) == label for model in (study.plain, study.tuned))
            image, label = image[~by_plain & by_tuned], label[~by_plain & by_tuned]
        count += len(label)
        if len(label):
            add_batch(study, means, columns, image, label, first_block)
    if not count:
        raise UserError(
            f"no image of the {len(study)} is missed by zero-shot CLIP and got right by {study.label}; "
            "use --select all or more --samples"
        )

    numbers, headlines = {}, []
    for name, model in study.models.items():
        found = means[name]
        for what in found.sums:
            numbers[f"{name}: {what}"] = found[what]
        headlines += [
            (f"text share of {kind}, {name}", float(value))
            for kind, value in zip(kinds_of(study).values(), found["text kinds"])
        ]
        headlines.append((f"image share of prompts, {name}", float(found["image"][model.vision.patches :].sum())))
        if name != ZERO_SHOT:
            headlines.append(
                (
                    f"rank correlation of patch relevancy with {ZERO_SHOT}, image by image, {name}",
                    float(found["rank correlation"]),
                )
            )
            curves = [torch.from_numpy(means[label]["patches alone"]) for label in (ZERO_SHOT, name)]
            headlines.append((f"the same of the mean curves, {name}", float(rank_correlation(*curves))))
    which = " that zero-shot CLIP misses and the tuned run gets right" if args.select == "corrected" else ""
    figures = {
        "contribution-text": text_figure(study, means),
        "contribution-image": image_figure(study, means),
        "contribution-kinds": kinds_figure(study, means),
    }
    prompts = any(len(means[name]["image"]) > study.plain.vision.patches for name in study.models)
    how_to_read = HOW_TO_READ.format(count=count, which=which, end=kinds_of(study)["end"], prompts=OF_PROMPTS * prompts)
    if any(ax.child_axes for figure in figures.values() for ax in figure.axes):
        how_to_read += " Insets enlarge the prompts."
    return Result(how_to_read + study.on_words(), [("images", count), *headlines], figures, numbers)


def add_batch(
    study: Study, means: dict[str, Means], columns: dict[str, list], image: Tensor, label: Tensor, first_block: int
) -> None:
    """Add a batch of images (B, 3, S, S) with labels (B,) to the means of every model of the study."""
    M = study.plain.vision.patches
    plain_patches = None
    for name, model in study.models.items():
        of_image, of_text = relevancy(model, image, label, first_block)
        text = torch.zeros(len(label), model.context_length)
        text[:, : of_text.shape[1]] = shares(of_text)
        masks = groups([columns[name][k] for k in label.tolist()], model.context_length)
        patches = of_image[:, :M].cpu()
        if plain_patches is None:
            plain_patches = patches
        for what, values in (
            ("text", text),
            ("text kinds", torch.stack([(text * masks[kind]).sum(-1) for kind in KINDS], -1)),
            ("image", shares(of_image)),
            ("patches alone", shares(patches)),
            ("rank correlation", rank_correlation(plain_patches, patches)),
        ):
            means[name].add(what, values)


def text_figure(study: Study, means: dict[str, Means]) -> Figure:
    """Figure 2: shares by position. All contexts begin at the left, and all class names at the line."""
    starts = {name: class_start(model) for name, model in study.models.items()}
    left = max(starts.values())
    longest = max(int(model.text.tokens.argmax(-1).max()) - starts[name] for name, model in study.models.items()) + 2
    curves = {}
    for name, start in starts.items():
        y = means[name]["text"]
        curves[name] = [(np.arange(start), y[:start]), (left + np.arange(longest), y[start : start + longest])]
    shown = (0.5, left - 0.5) if 1 < left <= 1 + MOST_ENLARGED else None
    limits = (-0.5, left + longest - 0.5)
    figure, ax = curves_figure(curves, left - 0.5, limits, shown, "prompts or template words", shown)
    some_ticks(ax, 0, token_names(left) + [str(i) for i in range(1, longest + 1)])
    ax.set_xlabel(f"SOS, prompts or template words P  |  class name, {kinds_of(study)['end']}, EOS and padding")
    for inset in ax.child_axes:
        some_ticks(inset, 1, token_names(left)[1:])
    return figure


def some_ticks(ax: Axes, start: int, names: list[str], most: int = MOST_TICKS) -> None:
    """Name what stands at x = start, start + 1, ...: each, or where these are more than `most`, every second, third, ..."""
    step = -(-len(names) // most)
    ax.set_xticks(range(start, start + len(names), step), names[::step])


def token_names(count: int) -> list[str]:
    return ["SOS", *(f"P{i}" for i in range(1, count))]


def image_figure(study: Study, means: dict[str, Means]) -> Figure:
    """Figure 3: shares of patches and prompts."""
    M = study.plain.vision.patches
    values = {name: means[name]["image"] for name in study.models}
    most = max(map(len, values.values()))
    curves = {name: [(np.arange(M), y[:M]), (np.arange(M, len(y)), y[M:])] for name, y in values.items()}
    first = max(0, M - 6)
    shown = (first - 0.5, most - 0.5) if most > M else None
    limits = (-1, most + 1 if most > M else M - 0.5)
    figure, ax = curves_figure(curves, M - 0.5, limits, shown, "last patches  |  prompts", (0.25 * M, 0.75 * M))
    ax.set_xlabel(f"patch, row by row (0 to {M - 1})" + ("  |  prompt" if most > M else ""))
    for inset in ax.child_axes:
        names = [*map(str, range(first, M)), *(f"P{i + 1}" for i in range(most - M))]
        some_ticks(inset, first, names, MOST_TICKS * M // most)  # the more prompts, the narrower is the inset
    return figure


def curves_figure(
    curves: dict[str, list], line: float, limits: tuple, shown: tuple | None, title: str, place: tuple | None
) -> tuple[Figure, Axes]:
    """Curves of all models on both sides of a line, with an inset that enlarges a part of them.

    Args:
        curves: name -> (x, y) left and right of the line.
        line, limits: in units of x.
        shown: the range of x in the inset; None for no inset.
        title: of the inset.
        place: the range of x above which the inset stands.
    """
    figure, axes = subplots(1, 1, height=3.1)
    ax = axes[0, 0]
    top = max(y.max() for parts in curves.values() for _, y in parts if len(y))
    inset = None
    if shown:
        beneath = max(
            y[(place[0] <= x) & (x <= place[1])].max(initial=0) for parts in curves.values() for x, y in parts
        )
        top = max(top, beneath / 0.42)
        width = limits[1] - limits[0]
        inset = ax.inset_axes([(place[0] - limits[0]) / width, 0.54, (place[1] - place[0]) / width, 0.38])
    for index, (name, parts) in enumerate(curves.items()):
        for label, (x, y) in zip((name, ""), parts):
            draw(ax, x, y, index, label)
            if inset:
                inside = (shown[0] <= x) & (x <= shown[1])
                draw(inset, x[inside], y[inside], index, "")
    ax.set_xlim(limits)
    ax.set_ylim(0, 1.06 * max(top, 1e-12))
    ax.set_ylabel("share of relevancy")
    for axes_, (low, high) in ((ax, limits), (inset, shown or limits)):
        if axes_ and low < line < high:
            axes_.axvline(line, color="#b01515", linewidth=1, zorder=1)
    if inset:
        inset.set_title(title, fontsize=7, pad=2)
        inset.set_ylim(0)
        inset.tick_params(labelsize=6.5, length=2)
    legend(figure)
    return figure, ax


def kinds_figure(study: Study, means: dict[str, Means]) -> Figure:
    """The same shares, added up by kind of token."""
    M = study.plain.vision.patches
    text = {name: dict(zip(kinds_of(study).values(), means[name]["text kinds"])) for name in study.models}
    of_image = {name: means[name]["image"] for name in study.models}
    image = {name: {"patches": values[:M].sum(), "prompts": values[M:].sum()} for name, values in of_image.items()}
    figure, axes = subplots(1, 2, height=2.5, sharey=True, width_ratios=[5, 2])
    for ax, values, title in zip(axes[0], (text, image), ("text", "image")):
        width = 0.8 / len(study.models)
        for index, (name, shares_of) in enumerate(values.items()):
            x = np.arange(len(shares_of)) + (index - (len(study.models) - 1) / 2) * width
            ax.bar(
                x,
                list(shares_of.values()),
                width * 0.92,
                color=look(index)["color"],
                hatch=["", "///", "...", "xxx"][index % 4],
                edgecolor="white",
                linewidth=0,
                label=name if title == "text" else "",
            )
        ax.set_xticks(range(len(shares_of)), [wrapped(kind, 16) for kind in shares_of])
        ax.set_title(title)
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("share of relevancy")
    legend(figure)
    return figure


def draw(ax: Axes, x: np.ndarray, y: np.ndarray, index: int, label: str) -> None:
    """One curve, those of CLIP and the tuned run over a faint area; markers where there is room for them."""
    style = dict(look(index))
    if len(x) > 20:
        style["marker"] = ""
    ax.plot(x, y, label=label, **style)
    if index < 2:  # more areas on each other would only be mud
        ax.fill_between(x, y, color=style["color"], alpha=0.15, linewidth=0)
