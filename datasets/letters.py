"""Letters: 26 rendered letters with distortions like those of handwriting, in fonts that the tiny CLIP has not seen.

All of it is rendered, nothing is photographed or written by hand. The glyphs are those of A. V. Hershey's stroke fonts
(public domain), which the package Hershey-Fonts has; training, validation and test images are in different fonts.
"""

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from promptbias.utils.errors import UserError

from . import drawing
from .embedded import EmbeddedDataset
from .reader import register
from .splits import Split

SIZE = 64  # pixels
FONTS = {
    "train": ("rowmans", "rowmand", "timesr", "timesrb", "scripts", "futuram"),
    "val": ("rowmant", "timesib"),
    "test": ("futural", "timesi", "scriptc", "cursive"),
}
COUNTS = {"train": 36, "val": 8, "test": 20}  # of each class
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def draw_letters(characters: str, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """images/<part>/<letter>/<number>_<font>.png, grey, light on dark."""
    for part, fonts in FONTS.items():
        for label, character in enumerate(characters):
            for number in range(COUNTS[part]):
                font = fonts[number % len(fonts)]
                random = drawing.Random([seed, list(FONTS).index(part), label, number])
                letter = draw_letter(glyph(font, character), random)
                yield f"images/{part}/{ALPHABET[label]}/{number:02}_{font}.png", drawing.as_bytes(letter)


@cache
def load_font(name: str) -> Any:
    """One of Hershey's fonts.

    Raises:
        UserError: Hershey-Fonts is not installed.
    """
    try:
        from HersheyFonts import HersheyFonts
    except ImportError as error:
        raise UserError("the letters come from Hershey-Fonts; run `pip install Hershey-Fonts`") from error
    font = HersheyFonts()
    font.load_default_font(name)
    return font


def glyph(font: str, character: str) -> np.ndarray:
    """The line segments of a character, (L, 2, 2), its larger side 1, around (0, 0)."""
    lines = np.array(list(load_font(font).lines_for_text(character)), float)
    low, high = lines.min((0, 1)), lines.max((0, 1))
    return (lines - (low + high) / 2) / (high - low).max()


def draw_letter(lines: np.ndarray, random: drawing.Random) -> np.ndarray:
    """A glyph (L, 2, 2) as a writer might have it: (64, 64)."""
    ends = np.linspace(0, 1, 5)
    points = lines[:, :1] + (lines[:, 1:] - lines[:, :1]) * ends[None, :, None]  # straight lines become bent ones
    shape = points.shape
    points = points.reshape(-1, 2)
    bend = [drawing.noise(random, 32, 3) - 0.5 for _ in range(2)]
    at = (points + 1) * 16
    points = points + 0.3 * np.stack([drawing.bilinear(part, at[:, 0], at[:, 1]) for part in bend], 1)
    height = drawing.uniform(random, 34, 46)
    points = drawing.product(points, height * drawing.handwritten_matrix(random).T)
    points = points + SIZE / 2 + np.array([drawing.uniform(random, -4, 4), drawing.uniform(random, -4, 4)])
    points = points.reshape(shape)
    segments = np.stack([points[:, :-1], points[:, 1:]], 2).reshape(-1, 2, 2)
    ink = drawing.strokes(segments, drawing.uniform(random, 2.5, 6.0), SIZE)
    return drawing.uniform(random, 0.7, 1.0) * drawing.blurred(ink, drawing.below(random, 3))


class _Letters(EmbeddedDataset):
    """The split is one of fonts, which the folders say; base and new classes are 13 each."""

    count = len(ALPHABET) * sum(COUNTS.values())
    class_names = tuple(ALPHABET)

    def read_data(self) -> Split:
        train, val, test = (
            [item for items in self.class_items(os.path.join(self.image_dir, part)) for item in items] for part in FONTS
        )
        return train, val, test


@register
class Letters(_Letters):
    """Capital letters."""

    dataset_dir = "letters"
    split_file = "split_zhou_Letters.json"
    what = "1,664 rendered capital letters"

    @staticmethod
    def draw() -> Iterator[tuple[str, np.ndarray]]:
        return draw_letters(ALPHABET.upper(), seed=1)


@register
class LowerLetters(_Letters):
    """Lower-case letters, whose shapes the tiny CLIP has never seen."""

    dataset_dir = "lower_letters"
    split_file = "split_zhou_LowerLetters.json"
    what = "1,664 rendered lower-case letters"

    @staticmethod
    def draw() -> Iterator[tuple[str, np.ndarray]]:
        return draw_letters(ALPHABET, seed=2)
