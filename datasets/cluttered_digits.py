"""ClutteredDigits: real handwriting on rendered backgrounds, with the mask of the digit for every image.

The digits are those of Digits, number by number and in the same split, so that what was tuned on one may be tested on
the other. Backgrounds (textures in colour) and distractors (strokes and blobs) are rendered; place and size vary.
"""

from collections.abc import Iterator

import numpy as np

from . import drawing
from .digits import Digits, handwriting
from .embedded import EmbeddedDataset
from .reader import register
from .splits import Split, divide_each

SIZE = 64  # pixels
INK = 0.35  # a pixel with more of it belongs to the digit


@register
class ClutteredDigits(EmbeddedDataset):
    """images/<class>/<number>.png in colour, and masks/<class>/<number>.png, 255 where the digit is."""

    dataset_dir = "cluttered_digits"
    split_file = "split_zhou_ClutteredDigits.json"
    what, count = "1,797 handwritten digits on cluttered backgrounds, with masks,", 2 * 1797
    class_names = Digits.class_names

    @staticmethod
    def draw() -> Iterator[tuple[str, np.ndarray]]:
        for number, (ink, label) in enumerate(handwriting()):
            name = f"{Digits.class_names[label]}/{number:04}.png"
            picture, mask = clutter(ink, drawing.Random([3, number]))
            yield f"masks/{name}", drawing.as_bytes(mask)
            yield f"images/{name}", drawing.as_bytes(picture)

    def read_data(self) -> Split:
        return divide_each(self.class_items(self.image_dir))


def clutter(ink: np.ndarray, random: drawing.Random) -> tuple[np.ndarray, np.ndarray]:
    """A digit (8, 8) in a scene: the picture (64, 64, 3), and where the digit is, (64, 64) of 0 and 1."""
    side = drawing.uniform(random, 30, 54)
    room = (SIZE - side) / 2 + 2
    centre = SIZE / 2 + drawing.uniform(random, -room, room), SIZE / 2 + drawing.uniform(random, -room, room)
    digit = drawing.placed(ink, SIZE, np.eye(2) * (8 / side), centre)
    pattern = drawing.texture(random, SIZE)
    dark, light = (np.array([drawing.uniform(random, *ends) for _ in range(3)]) for ends in ((0, 0.15), (0.15, 0.5)))
    picture = dark + (light - dark) * pattern[..., None]
    for _ in range(2 + drawing.below(random, 3)):
        shape = drawing.uniform(random, 0.5, 0.8) * distractor(random)
        picture = picture * (1 - shape[..., None]) + shape[..., None] * drawing.uniform(random, 0.3, 0.7)
    colour = np.array([drawing.uniform(random, 0.75, 1.0) for _ in range(3)])
    picture = picture * (1 - digit[..., None]) + digit[..., None] * colour
    return picture, (digit > INK).astype(float)


def distractor(random: drawing.Random) -> np.ndarray:
    """A short stroke, or a blob, somewhere: (64, 64) in [0, 1]."""
    start = np.array([drawing.uniform(random, 0, SIZE), drawing.uniform(random, 0, SIZE)])
    reach = np.array([drawing.uniform(random, -14, 14), drawing.uniform(random, -14, 14)])
    bend = np.array([drawing.uniform(random, -8, 8), drawing.uniform(random, -8, 8)])
    blob = drawing.below(random, 2)
    points = [start, start] if blob else [start, start + reach, start + reach + bend]
    return drawing.strokes(
        np.stack([points[:-1], points[1:]], 1), drawing.uniform(random, *((4, 9) if blob else (2, 4))), SIZE
    )
