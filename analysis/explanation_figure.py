"""The picture of an explanation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from promptbias.interp.faithfulness import FRACTIONS
from promptbias.interp.image_text import RANDOM_ORDERS, ImageText
from promptbias.interp.maps import upsample

from .figures import WIDTH, style, theme, wrap

# Inches. Placed by hand: automatic layout is slow, and takes the room from the pictures.
SIDE, GAP, MARGIN = 1.62, 0.18, 0.09  # of the four pictures in a row
HEAD, HEIGHT = 0.55, 4.75  # above the pictures; of one text
LINE = 0.17  # of each further line of the text

SEQUENTIAL, DIVERGING = "inferno", "RdBu_r"
OPACITY = 0.72  # of a map over the picture, which is grey there
SMOOTH = 256  # pixels that a map is enlarged to, at least
LEVEL_WORDS = 9  # more are written upright

Place = Callable[[float, float, float, float], Axes]


@theme()
def draw(picture: np.ndarray, models: dict[str, list[ImageText]], predicted: dict[str, tuple[str, float]]) -> Figure:
    """For each text the image, the map of each model and the difference; below, words and deletion curves.

    Args:
        picture: (S, S, 3).
        models: label -> pairs, one for each text; plain CLIP first, the tuned model after it, if there is one.
        predicted: label -> (class, probability), or nothing.
    """
    titles = [wrap(f"“{pair.text}”", 90) for pair in next(iter(models.values()))]
    heights = [HEIGHT + LINE * text.count("\n") for text in titles]
    figure = Figure(figsize=(WIDTH, sum(heights)))
    top = 0.0
    for text, height, pairs in zip(titles, heights, zip(*models.values())):
        below_title = top + height - HEIGHT
        draw_text(placer(figure, below_title), picture, dict(zip(models, pairs)), predicted)
        figure.text(0.5, 1 - (top + 0.08) / sum(heights), text, fontsize=10, fontweight="bold", ha="center", va="top")
        top += height
    return figure


def placer(figure: Figure, top: float) -> Place:
    """place(left, down, width, height): axes at so many inches from the left, and below `top`, of a figure."""
    width, height = figure.get_size_inches()

    def place(left: float, down: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + down + high) / height, wide / width, high / height))

    return place


def draw_text(
    place: Place, picture: np.ndarray, pairs: dict[str, ImageText], predicted: dict[str, tuple[str, float]]
) -> None:
    """One text."""
    left = [MARGIN + i * (SIDE + GAP) for i in range(4)]
    image, *maps = (place(x, HEAD, SIDE, SIDE) for x in left[: 1 + len(pairs)])
    image.imshow(picture)
    caption(image, "image", *(f"{label}: {name} {100 * p:.0f} %" for label, (name, p) in predicted.items()))
    scale = Normalize(0, max(float(pair.patches.max()) for pair in pairs.values()))
    for ax, (label, pair) in zip(maps, pairs.items()):
        overlay(ax, picture, pair.patches, SEQUENTIAL, scale)
        caption(ax, label, *worth(pair))
    bars = HEAD + SIDE + 0.45
    width = SIDE * len(maps) + GAP * (len(maps) - 1)
    color_bar(place(left[1] + width / 2 - 0.6, bars, 1.2, 0.06), SEQUENTIAL, scale, "relevancy (1: average patch)")
    lower = bars + 0.7
    if len(pairs) == 1:
        draw_deletion(place(left[2] + 0.45, HEAD, WIDTH - left[2] - 0.55, SIDE + 0.1), pairs)
        draw_words(place(0.55, lower, WIDTH - 0.65, 1), pairs)
        return
    plain, tuned = pairs.values()
    difference = tuned.patches - plain.patches
    scale = Normalize(-abs(difference).max(), abs(difference).max())
    ax = place(left[3], HEAD, SIDE, SIDE)
    overlay(ax, picture, difference, DIVERGING, scale)
    caption(ax, "difference")
    color_bar(place(left[3] + SIDE / 2 - 0.6, bars, 1.2, 0.06), DIVERGING, scale, " − ".join(reversed(pairs)))
    draw_words(place(0.55, lower, 3.85, 1), pairs)
    draw_deletion(place(4.9, lower, WIDTH - 5.0, 1), pairs)


def caption(ax: Axes, above: str, *below: str) -> None:
    """What a picture is called, and what is said below it."""
    ax.set_title(above)
    ax.set_xlabel("\n".join(below), fontsize=7)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def worth(pair: ImageText) -> list[str]:
    """What a map is worth, and what it leaves out, in lines of a few words."""
    mean, spread = pair.random_areas.mean(), pair.random_areas.std()
    lines = [
        f"area {pair.area:.1f}, random {mean:.1f} ± {spread:.1f}",
        f"better than {pair.beaten} of {RANDOM_ORDERS} orders",
    ]
    if pair.vision_prompts:
        lines.append(f"prompts take {100 * pair.vision_prompts:.0f} % of relevancy")
    return lines


def overlay(ax: Axes, picture: np.ndarray, patches: np.ndarray, cmap: str, scale: Normalize) -> None:
    """A map (side, side) over the picture, which turns grey."""
    size = len(picture)
    large = upsample(torch.from_numpy(patches).flatten(), max(size, SMOOTH)).numpy()
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    ax.imshow(picture @ [0.299, 0.587, 0.114], cmap="gray", vmin=0, vmax=1, extent=extent)
    ax.imshow(large, cmap=cmap, norm=scale, alpha=OPACITY, extent=extent)


def color_bar(ax: Axes, cmap: str, scale: Normalize, label: str) -> None:
    """A horizontal one, in `ax`."""
    assert ax.figure is not None
    bar = ax.figure.colorbar(ScalarMappable(scale, cmap), cax=ax, orientation="horizontal")
    bar.set_label(label, fontsize=7)
    ax.tick_params(labelsize=6.5, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def draw_words(ax: Axes, pairs: dict[str, ImageText]) -> None:
    """Shares of SOS, prompts and words. The words that prompts replace are read by plain CLIP alone."""
    plain, tuned = next(iter(pairs.values())), list(pairs.values())[-1]
    replaced, prompts = len(plain.words) - len(tuned.words), ["prompts"] if tuned.text_prompts else []
    names = ["SOS", *plain.words[:replaced], *prompts, *plain.words[replaced:]]
    width = 0.8 / len(pairs)
    for index, (label, pair) in enumerate(pairs.items()):
        missing = [np.nan] * (len(plain.words) - len(pair.words))
        shares = [*missing, *pair.word_shares]
        shares = [pair.start, *shares[:replaced], *[pair.text_prompts] * len(prompts), *shares[replaced:]]
        x = np.arange(len(names)) + (index - (len(pairs) - 1) / 2) * width
        ax.bar(x, shares, width * 0.92, color=style(index)["color"], label=label)
    level: dict[str, Any] = {} if len(names) <= LEVEL_WORDS else {"rotation": 90, "fontsize": 6.5}
    ax.set_xticks(range(len(names)), names, **level)
    ax.set_xlim(-0.6, max(len(names), LEVEL_WORDS) - 0.4)  # bars of few words are not wider
    ax.tick_params(axis="x", length=0)
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("share of relevancy")
    if len(pairs) > 1:
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=2)


def draw_deletion(ax: Axes, pairs: dict[str, ImageText]) -> None:
    """The score while patches are deleted: most relevant first, and in random orders (mean ± standard deviation)."""
    x = 100 * np.array(FRACTIONS)
    for index, (label, pair) in enumerate(pairs.items()):
        color, mean, spread = style(index)["color"], pair.random.mean(0), pair.random.std(0)
        ax.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.12, linewidth=0)
        ax.plot(x, mean, color=color, linewidth=0.8, linestyle=":")
        ax.plot(x, pair.deletion, color=color, marker=style(index)["marker"], label=label)
    ax.set_xlabel("patches deleted (%)")
    ax.set_ylabel("score")
    ax.set_title("deletion (dotted: random order)", fontsize=8)
