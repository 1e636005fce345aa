"""[cls] attention and prompt similarity over the image, also rotated (section 3.3.2, fig. 6)."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms import functional as TF

from promptbias.interp.cache import PATTERN, RESID_PRE, capture
from promptbias.interp.maps import cls_attention, min_max, prompt_distances, upsample
from promptbias.interp.statistics import Means, correlation
from promptbias.interp.token_layout import vision_columns
from promptbias.utils.errors import UserError

from .arguments import block_indices, head_indices
from .comparison import Comparison
from .explanation_figure import SEQUENTIAL, overlay
from .figures import STYLES, WIDTH, Result, block_axis, legend, plot_heads, style, subplots, theme, wrap
from .findings import SIMILAR, Finding

SHOWN_BLOCKS = 6  # by default
TITLE_WIDTH = 16  # characters in a line of a row's title
RESEMBLES, CONFOUNDED = 0.3, 0.95  # correlations: what counts as resemblance; that of another cause
GAP = 0.2  # between angles, relative to a map


class Curve(NamedTuple):
    """How a correlation is plotted."""

    title: str
    style: dict


# What concerns the prompts of the tuned run has its style; the others have styles that no model of the figure has.
CORRELATIONS = {
    "attention": Curve("[cls] attention, CLIP and tuned", STYLES[4]),
    "similarity": Curve("prompt similarity and 1 − [cls] attention", style(1)),
    "shortness": Curve("prompt similarity and −‖patch‖", STYLES[5]),
}


@dataclass
class Heatmap:
    """Maps of one image, upright and rotated, and correlations over the test set.

    Attributes:
        pictures: angle in degrees -> (S, S, 3).
        maps: angle -> title -> (blocks shown, S, S), each map scaled to 0-1.
        prompt_maps: angle -> (V, blocks shown, S, S): the similarity to each prompt.
        correlations: means over the test set by block. "attention" (L, 1): [cls] attention of CLIP with that of the
            tuned model. Where there are prompts, (L, V): "similarity" of patches to prompts with 1 − [cls] attention
            of the tuned model, and "shortness": the same similarity with −‖patch‖.
        blocks, heads: indices of those shown.
        all_heads: whether these are all.
        classname: class of the image.
        count: test images behind `correlations`.
    """

    pictures: dict[int, np.ndarray]
    maps: dict[int, dict[str, np.ndarray]]
    prompt_maps: dict[int, np.ndarray]
    correlations: dict[str, np.ndarray]
    blocks: list[int]
    heads: list[int]
    all_heads: bool
    classname: str
    count: int

    @property
    def prompts(self) -> int:
        """V."""
        return len(next(iter(self.prompt_maps.values())))


def compute(
    comparison: Comparison,
    image: int = 0,
    angles: Sequence[int] = (0, 90, 180, 270),
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Heatmap:
    """Maps of test image `image`, rotated by `angles` in degrees, and correlations over the test set.

    Args:
        blocks, heads: indices from 0; default: six blocks, all heads.

    Raises:
        UserError: there is no such image, or an angle would leave empty corners.
    """
    for angle in angles:
        if angle % 90:
            raise UserError(f"--angles has {angle}, but angles must be multiples of 90, so that no corner is empty")
    vision = comparison.plain.vision
    last = len(vision.blocks) - 1
    spaced = sorted({round(1 + i * last / (SHOWN_BLOCKS - 1)) - 1 for i in range(SHOWN_BLOCKS)})
    blocks = list(spaced if blocks is None else blocks)
    all_heads = range(vision.heads)
    heads = list(all_heads if heads is None else heads)
    upright, label = comparison.image(image)
    rotated = {angle: TF.rotate(upright, angle, TF.InterpolationMode.BILINEAR) for angle in angles}
    similar = {angle: prompt_similarity(comparison, turned, blocks) for angle, turned in rotated.items()}
    maps = {angle: attention_maps(comparison, turned, blocks, heads) for angle, turned in rotated.items()}
    for angle, maps_of_prompts in similar.items():
        if len(maps_of_prompts):
            maps[angle]["prompt similarity"] = maps_of_prompts.mean(0)
    return Heatmap(
        pictures={angle: comparison.picture(turned) for angle, turned in rotated.items()},
        maps=maps,
        prompt_maps=similar,
        correlations=correlations(comparison, heads),
        blocks=blocks,
        heads=heads,
        all_heads=heads == list(all_heads),
        classname=comparison.classnames[label],
        count=len(comparison),
    )


def attention_maps(
    comparison: Comparison, image: Tensor, blocks: Sequence[int], heads: Sequence[int]
) -> dict[str, np.ndarray]:
    """[cls] attention over one image (1, 3, S, S), plain and tuned: title -> (blocks, S, S)."""
    maps = {}
    for title, model in (("CLIP", comparison.plain), ("tuned", comparison.tuned)):
        with capture(model.vision, *(f"blocks.{i}.{PATTERN}" for i in blocks)) as cache:
            model.image_features(image)
        patterns = cache.by_block(PATTERN)
        attention = torch.stack([cls_attention(patterns[i], model, heads)[0] for i in blocks])
        maps[f"[cls] attention, {title}"] = min_max(upsample(attention, image.shape[-1])).cpu().numpy()
    return maps


def prompt_similarity(comparison: Comparison, image: Tensor, blocks: Sequence[int]) -> np.ndarray:
    """1 − the scaled distance of each vision prompt of the tuned run to the patches of one image, (V, blocks, S, S)."""
    model = comparison.tuned
    with capture(model.vision, *(f"blocks.{i}.{RESID_PRE}" for i in blocks)) as cache:
        model.image_features(image)
    inputs = cache.by_block(RESID_PRE)
    distances = torch.stack([prompt_distances(inputs[i], model)[0] for i in blocks], 1)
    size = image.shape[-1]
    if not len(distances):
        return np.zeros((0, len(blocks), size, size), np.float32)
    return (1 - min_max(upsample(distances, size))).cpu().numpy()


def correlations(comparison: Comparison, heads: Sequence[int]) -> dict[str, np.ndarray]:
    """See `Heatmap.correlations`."""
    means = Means()
    plain, tuned = comparison.plain, comparison.tuned
    patches = vision_columns(tuned)["patches"]
    points = f"blocks.*.{PATTERN}", f"blocks.*.{RESID_PRE}"
    for image in comparison.images("heatmap"):
        with capture(plain.vision, points[0]) as before, capture(tuned.vision, *points) as after:
            plain.image_features(image)
            tuned.image_features(image)
        inputs, plain_patterns = after.by_block(RESID_PRE), before.by_block(PATTERN)
        for i, pattern in after.by_block(PATTERN).items():
            attention = cls_attention(pattern, tuned, heads)[:, None]  # (B, 1, M)
            plain_attention = cls_attention(plain_patterns[i], plain, heads)[:, None]
            means.add(("attention", i), correlation(plain_attention, attention))
            distances = prompt_distances(inputs[i], tuned)  # (B, V, M)
            lengths = inputs[i][:, None, patches].norm(dim=-1)  # (B, 1, M)
            if distances.shape[1]:
                # 1 - x reverses both sides, and min-max scaling changes no correlation.
                means.add(("similarity", i), correlation(distances, attention))
                means.add(("shortness", i), correlation(distances, lengths))
    return {name: means.stacked(name, len(tuned.vision.blocks)) for name in CORRELATIONS if (name, 0) in means}


@theme()
def plot(heatmap: Heatmap) -> dict[str, Figure]:
    figures = {"heatmap": map_figure(heatmap.pictures, heatmap.maps, heatmap.blocks)}
    if heatmap.prompts > 1:
        angle = next(iter(heatmap.pictures))
        each = {f"prompt {v + 1}": maps for v, maps in enumerate(heatmap.prompt_maps[angle])}
        figures["heatmap-prompts"] = map_figure({angle: heatmap.pictures[angle]}, {angle: each}, heatmap.blocks)
    return {**figures, "heatmap-correlation": correlation_figure(heatmap.correlations)}


@theme()
def map_figure(
    pictures: dict[int, np.ndarray], maps: dict[int, dict[str, np.ndarray]], blocks: Sequence[int]
) -> Figure:
    """For each angle the image and, right of it, its rows of maps, one for each block, laid over it."""
    columns, each = 1 + len(blocks), 1 + len(next(iter(maps.values())))  # the last row of each angle is a gap
    rows = each * len(maps) - 1
    width = WIDTH * max(1, columns / 8)  # more blocks make a wider figure, not smaller maps that titles do not fit
    ratios = [GAP if r % each == each - 1 else 1 for r in range(rows)]
    height = 0.93 * width / columns * 1.06 * sum(ratios) + 0.2
    # Placed by hand: automatic layout takes long with so many axes.
    figure, axes = subplots(rows, columns, height / rows, width, layout="none", height_ratios=ratios)
    figure.subplots_adjust(0.4 / width, 0.05 / height, 0.995, 1 - 0.2 / height, wspace=0.06, hspace=0.11)
    for ax in axes.flat:
        ax.axis("off")
    for ax, block in zip(axes[0, 1:], blocks):
        ax.set_title(f"block {block + 1}", fontsize=7)
    for first, (angle, by_title) in zip(range(0, rows, each), maps.items()):
        axes[first, 0].imshow(pictures[angle])
        axes[first, 0].set_title(f"image, {angle}°", fontsize=7)
        for row, (title, values) in zip(axes[first:], by_title.items()):
            beside = {"transform": row[0].transAxes, "rotation": 90, "ha": "right", "va": "center", "fontsize": 6.5}
            row[0].text(-0.08, 0.5, wrap(title, TITLE_WIDTH), **beside)
            for ax, values_of_block in zip(row[1:], values):
                overlay(ax, pictures[angle], values_of_block, SEQUENTIAL, Normalize(0, 1))
    return figure


@theme()
def correlation_figure(found: dict[str, np.ndarray]) -> Figure:
    """The correlations over the blocks."""
    figure, axes = subplots(1, 1, height=2.6)
    ax = axes[0, 0]
    ax.axhline(0, color="0.5", linewidth=0.8)
    for name, values in found.items():
        plot_heads(ax, values, CORRELATIONS[name].style, label=CORRELATIONS[name].title)
        block_axis(ax, len(values))
    ax.set_ylim(-1.05, 1.05)
    ax.set_ylabel("correlation over patches")
    legend(figure, columns=2)
    return figure


def describe(heatmap: Heatmap) -> str:
    heads = "all heads" if heatmap.all_heads else "heads " + ", ".join(str(head + 1) for head in heatmap.heads)
    V = heatmap.prompts
    similarity = expected = measured = ""
    if V:
        similarity = (
            ", and how similar the image's patches are to the prompts of the same block (1 − Euclidean distance, each "
            f"map scaled to 0–1{f', mean of the {V}' if V > 1 else ''})"
        )
        expected = ", and the third to be bright on the background"
        measured = (
            "; of each prompt's similarity with 1 − [cls] attention of the tuned model (1: prompts resemble what "
            "[cls] ignores); and of the same similarity with minus the length of the patch's own embedding (near 1: "
            "patches are near the prompt because they are short, and the map says little about the prompt)"
        )
    return (
        f"What [cls] attends to (mean over {heads}), before and after tuning{similarity}, laid over an image of class "
        f"“{heatmap.classname}”, upright and rotated. Bright is high. The paper expects the first two rows to "
        f"agree{expected}. The curves are means over {heatmap.count} test images: the correlation over patches of "
        f"CLIP's [cls] attention with that of the tuned model (1: unchanged){measured}."
    )


def headlines(heatmap: Heatmap) -> list[tuple[str, float]]:
    return [
        (f"mean correlation, {CORRELATIONS[name].title}", float(values.mean()))
        for name, values in heatmap.correlations.items()
    ]


def findings(heatmap: Heatmap) -> list[Finding]:
    """Of section 3.3.2, on the tuned run."""
    mean = dict(zip(heatmap.correlations, (value for _, value in headlines(heatmap))))
    found = [Finding.of("[cls] attention stays", "correlation with CLIP's over patches", mean["attention"], SIMILAR)]
    if heatmap.prompts:
        claim, quantity = "Prompts resemble what [cls] overlooks", "their similarity's correlation with 1 − attention"
        why = "the similarity is the length of the patch" if mean["shortness"] > CONFOUNDED else ""
        found.append(Finding.of(claim, quantity, mean["similarity"], RESEMBLES, cannot_tell=why))
    return found


def arrays(heatmap: Heatmap) -> dict[str, np.ndarray]:
    found = {f"correlation: {name}": values for name, values in heatmap.correlations.items()}
    for angle, by_title in heatmap.maps.items():
        found.update({f"{angle} degrees, {title}": values for title, values in by_title.items()})
        each = enumerate(heatmap.prompt_maps[angle], 1)
        found.update({f"{angle} degrees, prompt {v}": values for v, values in each})
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", type=int, default=0, metavar="I", help="test image to show (from 0; default: 0)")
    parser.add_argument(
        "--angles",
        type=int,
        nargs="+",
        default=[0, 90, 180, 270],
        metavar="DEGREES",
        help="rotations of the image, multiples of 90 (default: 0 90 180 270)",
    )
    parser.add_argument("--blocks", type=int, nargs="+", metavar="L", help="blocks to show (from 1; default: six)")
    parser.add_argument(
        "--heads", type=int, nargs="+", metavar="H", help="heads to average over (from 1; default: all)"
    )


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    vision = comparison.plain.vision
    blocks = block_indices(args.blocks, vision) if args.blocks else None
    heads = head_indices(args.heads, vision) if args.heads else None
    found = compute(comparison, args.image, args.angles, blocks, heads)
    return Result(describe(found), headlines(found), plot(found), arrays(found), findings=findings(found))
