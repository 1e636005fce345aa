"""[cls] attention and prompt similarity over the image, also rotated (section 3.3.2, fig. 6)."""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms import functional as TF

from promptbias.utils.errors import UserError
from promptbias.model.tuned_clip import TunedCLIP

from .figures import WIDTH, Result, block_axis, heads_per_block, plt, subplots
from promptbias.interp.cache import Watch, recording, tapped, vision_columns
from .run import Study, choose_blocks, choose_heads
from promptbias.interp.statistics import Means, correlation

HOW_TO_READ = (
    "Where [cls] looks (mean over {heads}), before and after tuning{maps}, for an image of class “{name}” upright and "
    "rotated. Bright is much. The paper expects the first two rows to agree{third}. The curves say it in numbers, over "
    "{count} test images: the correlation over patches of CLIP's [cls] attention with the tuned one (1: unchanged){similarity}."
)
OF_PROMPTS = (
    ", and how similar the image's patches are to the prompts of the same block (1 − Euclidean distance, each map scaled to "
    "0–1{mean})"
)
SIMILARITY = (
    "; of each prompt's similarity with 1 − [cls] attention of the tuned model (1: prompts are like what [cls] "
    "overlooks); and of the same similarity with minus the length of the patch's own embedding (near 1: patches "
    "are near the prompt because they are short, and the map says little about the prompt)"
)
CURVES = {
    "attention": "[cls] attention, CLIP and tuned",
    "similarity": "prompt similarity and 1 − [cls] attention",
    "shortness": "prompt similarity and −‖patch‖",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image", type=int, default=0, metavar="I", help="which test image to show (from 0; default: 0)"
    )
    parser.add_argument(
        "--angles",
        type=int,
        nargs="+",
        default=[0, 90, 180, 270],
        metavar="DEGREES",
        help="rotations of the image, in right angles (default: 0 90 180 270)",
    )
    parser.add_argument(
        "--blocks", type=int, nargs="+", metavar="L", help="blocks to show (from 1; default: six of them)"
    )
    parser.add_argument(
        "--heads", type=int, nargs="+", metavar="H", help="heads to average over (from 1; default: all)"
    )


def cls_attention(A: Tensor, model: TunedCLIP, heads: list[int]) -> Tensor:
    """Mean over `heads` of what [cls] gives to the patches: (B, H, N, N) -> (B, M)."""
    return A[:, heads, 0, vision_columns(model)["patches"]].mean(1)


def prompt_distances(x: Tensor, model: TunedCLIP) -> Tensor:
    """Euclidean distances of each prompt to each patch in a block's input: (B, N, D) -> (B, V, M)."""
    columns = vision_columns(model)
    return torch.cdist(x[:, columns["prompts"]].float(), x[:, columns["patches"]].float())


def upsampled(maps: Tensor, size: int) -> Tensor:
    """Maps over a square grid of patches, (..., M) -> (..., size, size), bilinear."""
    side = int(maps.shape[-1] ** 0.5)
    grid = maps.reshape(-1, 1, side, side)
    return F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False).reshape(
        *maps.shape[:-1], size, size
    )


def scaled(maps: Tensor) -> Tensor:
    """Each map (..., S, S) scaled to 0-1; a constant one becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def run(study: Study, args: argparse.Namespace) -> Result:
    """Maps of one image, upright and rotated, and correlations over the test set.

    Raises:
        UserError: no such image, block or head; an angle that would leave empty corners.
    """
    for angle in args.angles:
        if angle % 90:
            raise UserError(f"--angles has {angle}, but angles have to be multiples of 90, so that no corner is empty")
    heads = choose_heads(study.plain.vision, args.heads)
    L = len(study.plain.vision.blocks)
    blocks = choose_blocks(study.plain.vision, args.blocks or sorted({round(1 + i * (L - 1) / 5) for i in range(6)}))
    image, label = study.image(args.image)
    V = vision_columns(study.tuned)["prompts"]
    V = V.stop - V.start

    figures, numbers = {}, {}
    rotated = {angle: TF.rotate(image, angle, TF.InterpolationMode.BILINEAR) for angle in args.angles}
    maps = {angle: maps_of(study, turned, blocks, heads) for angle, turned in rotated.items()}
    for angle, rows in maps.items():
        numbers.update({f"{angle} degrees, {name}".replace("\n", " "): values for name, values in rows.items()})
    shown = {
        angle: {name: values for name, values in rows.items() if not name.startswith("prompt ")}
        for angle, rows in maps.items()
    }
    figures["heatmap"] = map_figure(study, rotated, shown, blocks)
    if V > 1:
        first = args.angles[0]
        each = {name: values for name, values in maps[first].items() if name.startswith("prompt ")}
        figures["heatmap-prompts"] = map_figure(study, {first: rotated[first]}, {first: each}, blocks)

    found = correlations(study, heads)
    figure, axes = subplots(1, 1, height=2.6)
    ax = axes[0, 0]
    ax.axhline(0, color="0.5", linewidth=0.8)
    for (what, values), index in zip(found.items(), (4, 1, 5)):  # red is what the tuned run's prompts are like
        heads_per_block(ax, values, index, label=CURVES[what])
        numbers[f"correlation: {what}"] = values
    block_axis(ax, L)
    ax.set_ylim(-1.05, 1.05)
    ax.set_ylabel("correlation over patches")
    figure.legend(loc="outside upper center", ncols=2)
    figures["heatmap-correlation"] = figure

    headlines = [(f"mean correlation, {CURVES[what]}", float(values.mean())) for what, values in found.items()]
    return Result(
        HOW_TO_READ.format(
            heads="all heads" if args.heads is None else "heads " + ", ".join(map(str, args.heads)),
            maps=OF_PROMPTS.format(mean=f", mean of the {V}" if V > 1 else "") if V else "",
            third=", and the third to be bright on the background" if V else "",
            name=study.classnames[label],
            count=len(study),
            similarity=SIMILARITY if V else "",
        ),
        headlines,
        figures,
        numbers,
    )


@torch.no_grad()
def maps_of(study: Study, image: Tensor, blocks: list[int], heads: list[int]) -> dict[str, np.ndarray]:
    """What is shown of one image (1, 3, S, S): row title -> (len(blocks), S, S)."""
    size = image.shape[-1]
    rows = {}
    for title, model in (("CLIP", study.plain), ("tuned", study.tuned)):
        with recording(model.vision, blocks, tokens=True) as seen:
            model.image_features(image)
        attention = torch.stack([cls_attention(seen.attention[i], model, heads)[0] for i in blocks])
        rows[f"[cls] attention,\n{title}"] = scaled(upsampled(attention, size)).cpu().numpy()
    similarity = torch.stack(
        [1 - scaled(upsampled(prompt_distances(seen.tokens[i], study.tuned)[0], size)) for i in blocks]
    )
    if similarity.shape[1]:
        rows["prompt\nsimilarity"] = similarity.mean(1).cpu().numpy()
    for v in range(similarity.shape[1]):
        rows[f"prompt {v + 1}"] = similarity[:, v].cpu().numpy()
    return rows


@torch.no_grad()
def correlations(study: Study, heads: list[int]) -> dict[str, np.ndarray]:
    """Means over the test set of correlations over patches, by block.

    Returns:
        "attention": [cls] attention of CLIP and of the tuned model, (L, 1). Where there are prompts, "similarity": each
        prompt's similarity with 1 − [cls] attention of the tuned model, and "shortness": with −‖patch‖, (L, V).
    """
    means = Means()
    plain: dict[int, Tensor] = {}
    tokens: dict[int, Tensor] = {}
    columns = vision_columns(study.tuned)

    def see_plain(i: int, A: Tensor) -> None:
        plain[i] = cls_attention(A, study.plain, heads)

    def see_tuned(i: int, A: Tensor) -> None:
        attention = cls_attention(A, study.tuned, heads)[:, None]  # (B, 1, M)
        means.add(("attention", i), correlation(plain[i][:, None], attention))
        distances = prompt_distances(tokens[i], study.tuned)  # (B, V, M)
        lengths = tokens[i][:, None, columns["patches"]].norm(dim=-1)  # (B, 1, M)
        if distances.shape[1]:
            # 1 - x turns both sides around, and min-max changes no correlation.
            means.add(("similarity", i), correlation(distances, attention))
            means.add(("shortness", i), correlation(distances, lengths))

    for image, _ in study.batches("heatmap"):
        with tapped(study.plain.vision, Watch(attention=see_plain)):
            study.plain.image_features(image)
        with tapped(study.tuned.vision, Watch(attention=see_tuned, tokens=tokens.__setitem__)):
            study.tuned.image_features(image)
    return {
        what: np.stack([means[what, i] for i in range(len(study.tuned.vision.blocks))])
        for what in CURVES
        if (what, 0) in means.sums
    }


def map_figure(
    study: Study, images: dict[int, Tensor], maps: dict[int, dict[str, np.ndarray]], blocks: list[int]
) -> Figure:
    """For each angle the image and, right of it, its rows of maps over the blocks."""
    columns, each = 1 + len(blocks), 1 + len(next(iter(maps.values())))  # the last row of each angle is a gap
    rows = each * len(maps) - 1
    width = WIDTH * max(1, columns / 8)  # more blocks make a wider figure, not smaller maps that titles do not fit
    cell = 0.93 * width / columns
    ratios = [0.2 if r % each == each - 1 else 1 for r in range(rows)]
    height = cell * 1.06 * sum(ratios) + 0.2
    # Placed by hand: automatic layout takes long with so many axes.
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="none", height_ratios=ratios
    )
    figure.subplots_adjust(0.4 / width, 0.05 / height, 0.995, 1 - 0.2 / height, wspace=0.06, hspace=0.11)
    for ax in axes.flat:
        ax.axis("off")
    for a, (angle, heats) in enumerate(maps.items()):
        axes[a * each, 0].imshow(study.picture(images[angle]))
        axes[a * each, 0].set_title(f"image, {angle}°", fontsize=7)
        for r, (title, values) in enumerate(heats.items()):
            row = axes[a * each + r]
            row[0].text(
                -0.08, 0.5, title, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=6.5
            )
            for ax, block, heat in zip(row[1:], blocks, values):
                ax.imshow(heat, cmap="inferno", vmin=0, vmax=1)
                if a == r == 0:
                    ax.set_title(f"block {block + 1}", fontsize=7)
    return figure
