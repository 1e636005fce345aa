"""Relevancy and [cls] attention laid over the picture: plain CLIP, the tuned run, and the difference."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from promptbias.interp.cache import PATTERN, capture
from promptbias.interp.maps import cls_attention
from promptbias.interp.relevancy import relevancy, shares
from promptbias.interp.statistics import correlation
from promptbias.model.tuned_clip import TunedCLIP

from .comparison import Comparison, evenly_spaced
from .explanation_figure import DIVERGING, SEQUENTIAL, caption, color_bar, overlay
from .figures import WIDTH, Result, theme

NAMES = {"relevancy": "relevancy", "attention": "[cls] attention in the last block"}
SHOWN_IMAGES = 4  # by default
SIDE, GAP, LEFT, TOP, LINE, BAR = 1.5, 0.12, 0.1, 0.3, 0.32, 0.62  # inches


class Maps(NamedTuple):
    """Maps (side, side) over the patches of one image; 1 is the average patch."""

    plain: np.ndarray
    tuned: np.ndarray


@dataclass
class Overlay:
    """Images with their maps.

    Attributes:
        indices: of the images in the test set.
        pictures: (S, S, 3) each.
        captions: class of each image, and what each model takes it for.
        maps: "relevancy" and "attention" -> one pair for each image.
        label: of the tuned run.
    """

    indices: list[int]
    pictures: list[np.ndarray]
    captions: list[tuple[str, str, str]]
    maps: dict[str, list[Maps]]
    label: str


def compute(comparison: Comparison, images: Sequence[int] | None = None) -> Overlay:
    """Maps of some test images.

    Args:
        images: indices in the test set; default: four evenly spaced ones.

    Raises:
        UserError: there is no such image.
    """
    found = Overlay(list(evenly(comparison.indices) if images is None else images), [], [], {}, comparison.label)
    models, makers = (comparison.plain, comparison.tuned), {"relevancy": relevancy_map, "attention": attention_map}
    found.maps = {what: [] for what in makers}
    for index in found.indices:
        image, label = comparison.image(index)
        found.pictures.append(comparison.picture(image))
        with torch.no_grad():
            taken = [comparison.classnames[int(model.logits(image).argmax())] for model in models]
        found.captions.append((comparison.classnames[label], taken[0], taken[1]))
        for what, make in makers.items():
            found.maps[what].append(Maps(*(make(model, image, label) for model in models)))
    return found


def evenly(indices: Sequence[int]) -> list[int]:
    """Some of the indices, evenly spaced."""
    return evenly_spaced(indices, min(SHOWN_IMAGES, len(indices)))


def relevancy_map(model: TunedCLIP, image: Tensor, label: int) -> np.ndarray:
    """Relevancy of the patches of an image (1, 3, S, S) for its class."""
    found = relevancy(model, image, torch.tensor([label], device=image.device))
    return over_average(found.vision[0, : model.vision.patches])


def attention_map(model: TunedCLIP, image: Tensor, label: int) -> np.ndarray:
    """Attention of [cls] to the patches of an image (1, 3, S, S) in the last block, mean over heads."""
    point = f"blocks.{len(model.vision.blocks) - 1}.{PATTERN}"
    with capture(model.vision, point) as cache:
        model.image_features(image)
    return over_average(cls_attention(cache[point], model, range(model.vision.heads))[0])


def over_average(patches: Tensor) -> np.ndarray:
    """(M,) as a map (side, side) whose mean is 1; zeros stay zeros."""
    side = int(len(patches) ** 0.5)
    return (len(patches) * shares(patches)).reshape(side, side).cpu().numpy()


def plot(found: Overlay) -> dict[str, Figure]:
    return {f"overlay-{what}": draw(found, maps, NAMES[what]) for what, maps in found.maps.items()}


@theme()
def draw(found: Overlay, maps: Sequence[Maps], name: str) -> Figure:
    """A row for each image: the picture, the two maps over it, and their difference; one scale for all images."""
    row = SIDE + LINE
    width, height = LEFT + 4 * (SIDE + GAP), TOP + row * len(maps) + BAR
    figure = Figure(figsize=(max(width, WIDTH), height))
    offset = (max(width, WIDTH) - width) / 2

    def place(column: float, down: float, wide: float, high: float):
        left = offset + LEFT + column * (SIDE + GAP)
        box = left / max(width, WIDTH), 1 - (down + high) / height, wide / max(width, WIDTH), high / height
        return figure.add_axes(box)

    scale = Normalize(0, max(float(values.max()) for pair in maps for values in pair))
    largest = max(float(abs(pair.tuned - pair.plain).max()) for pair in maps)
    signed = Normalize(-largest, largest)
    for at, (index, picture, said, pair) in enumerate(zip(found.indices, found.pictures, found.captions, maps)):
        image, *overlays = (place(column, TOP + at * row, SIDE, SIDE) for column in range(4))
        image.imshow(picture)
        drawn = zip((pair.plain, pair.tuned, pair.tuned - pair.plain), (SEQUENTIAL, SEQUENTIAL, DIVERGING))
        for ax, (values, cmap) in zip(overlays, drawn):
            overlay(ax, picture, values, cmap, signed if cmap == DIVERGING else scale)
        titles = ("picture", "CLIP", found.label, "difference") if at == 0 else ("",) * 4
        below = (f"image {index}: {said[0]}", f"says {said[1]}", f"says {said[2]}", "")
        for ax, title, text in zip((image, *overlays), titles, below):
            caption(ax, title, text)
    bars = TOP + row * len(maps) + 0.1
    color_bar(place(1.2, bars, 1.9, 0.07), SEQUENTIAL, scale, f"{name} (1: average patch)")
    color_bar(place(3, bars, SIDE, 0.07), DIVERGING, signed, "tuned − CLIP")
    return figure


def describe(found: Overlay) -> str:
    return (
        "Maps over the picture, which is grey below them. Relevancy (Chefer et al., Generic Attention-Model "
        "Explainability, 2021): what speaks for the image's own class, from attention and its gradients in all blocks. "
        "[cls] attention: of the last block, mean over heads. 1 is the average patch of a map, and all maps of a "
        "figure share a scale; what prompts receive beside the patches is not shown. Difference: red where the tuned "
        "run gives a patch more weight than CLIP, blue where less. The paper expects maps to stay as they were. "
        "Whether a map tells what the model uses is tested by `faithfulness`."
    )


def headlines(found: Overlay) -> list[tuple[str, float]]:
    return [
        (f"correlation of CLIP's {what} with the tuned run's, image {index}", float(correlation(*map(flat, pair))))
        for what, pairs in found.maps.items()
        for index, pair in zip(found.indices, pairs)
    ]


def flat(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).flatten()


def arrays(found: Overlay) -> dict[str, np.ndarray]:
    pictures = {f"image {index}: picture": picture for index, picture in zip(found.indices, found.pictures)}
    return pictures | {
        f"image {index}: {what}, {model}": values
        for what, pairs in found.maps.items()
        for index, pair in zip(found.indices, pairs)
        for model, values in pair._asdict().items()
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        type=int,
        nargs="+",
        metavar="I",
        help="test images to show (from 0; default: four evenly spaced ones)",
    )


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison, args.images)
    return Result(describe(found), headlines(found), plot(found), arrays(found))
