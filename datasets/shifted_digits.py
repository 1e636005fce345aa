"""Four shifts of the test images of Digits, for domain generalisation: inverted, textured, noisy, and rotated.

The handwriting is real and the same as in Digits, number by number; the change is rendered. They are test sets: their
images are those of Digits' test split; there are none to train on, so NUM_SHOTS and SUBSAMPLE_CLASSES do not apply.
"""

from collections.abc import Iterator

import numpy as np
from dassl.data.datasets import DatasetBase

from . import drawing
from .digits import Digits, handwriting
from .embedded import EmbeddedDataset
from .reader import register
from .splits import Split, divide_each

SIZE = 64  # pixels


class ShiftedDigits(EmbeddedDataset):
    """A test set for models that were tuned on Digits. A subclass says in `shift` what it changes.

    All 1,797 digits are written, and those of the test split are read.
    """

    count = 1797
    class_names = Digits.class_names
    number = 0  # of the shift, for its random numbers

    def __init__(self, cfg):
        self.locate(cfg)
        items, _, _ = self.split()
        data = self.data(items)
        DatasetBase.__init__(self, train_x=data, test=data)

    @staticmethod
    def shift(ink: np.ndarray, random: drawing.Random) -> np.ndarray:
        """The changed image, (64, 64), of a digit (8, 8)."""
        raise NotImplementedError

    @classmethod
    def draw(cls) -> Iterator[tuple[str, np.ndarray]]:  # type: ignore[override]
        for number, (ink, label) in enumerate(handwriting()):
            picture = cls.shift(ink, drawing.Random([4, cls.number, number]))
            yield f"images/{Digits.class_names[label]}/{number:04}.png", drawing.as_bytes(picture)

    def check_classes(self, train, val, test) -> None:
        """The training set is the test set here; see `DatasetBase.__init__` above."""

    def read_data(self) -> Split:
        _, _, test = divide_each(self.class_items(self.image_dir))
        return test, [], test


def enlarged(ink: np.ndarray, matrix: np.ndarray | None = None) -> np.ndarray:
    """A digit (8, 8) at the size of the images, (64, 64), perhaps turned or slanted."""
    change = np.eye(2) if matrix is None else matrix
    return drawing.placed(ink, SIZE, change * (8 / SIZE), (SIZE / 2, SIZE / 2))


@register
class InvertedDigits(ShiftedDigits):
    """Dark ink on light paper."""

    dataset_dir = "inverted_digits"
    what, number = "1,797 handwritten digits, inverted,", 1

    @staticmethod
    def shift(ink: np.ndarray, random: drawing.Random) -> np.ndarray:
        return 1 - enlarged(ink)


@register
class TexturedDigits(ShiftedDigits):
    """On a textured background of up to 60 % of the ink's brightness."""

    dataset_dir = "textured_digits"
    what, number = "1,797 handwritten digits on textures", 2

    @staticmethod
    def shift(ink: np.ndarray, random: drawing.Random) -> np.ndarray:
        return np.maximum(enlarged(ink), 0.6 * drawing.texture(random, SIZE))


@register
class NoisyDigits(ShiftedDigits):
    """Blurred, with noise in every pixel."""

    dataset_dir = "noisy_digits"
    what, number = "1,797 handwritten digits with noise and blur", 3

    @staticmethod
    def shift(ink: np.ndarray, random: drawing.Random) -> np.ndarray:
        return drawing.blurred(enlarged(ink), 12) + 0.7 * (random.random_sample((SIZE, SIZE)) - 0.5)


@register
class RotatedDigits(ShiftedDigits):
    """Turned by up to 35 degrees, slanted by up to 0.5, and a fifth smaller, so that the corners stay in the image."""

    dataset_dir = "rotated_digits"
    what, number = "1,797 handwritten digits, rotated and slanted,", 4

    @staticmethod
    def shift(ink: np.ndarray, random: drawing.Random) -> np.ndarray:
        slant = np.array([[1.0, drawing.uniform(random, -0.5, 0.5)], [0.0, 1.0]])
        return enlarged(ink, 1.25 * drawing.product(drawing.turned(drawing.uniform(random, -0.315, 0.315)), slant))
