"""Digits: scikit-learn's 1,797 handwritten digits of 8x8 pixels, written once as image files. Needs no network."""

from collections.abc import Iterator

import numpy as np

from promptbias.utils.errors import UserError

from .embedded import EmbeddedDataset
from .reader import register
from .splits import Split, divide_each


@register
class Digits(EmbeddedDataset):
    """Real handwriting: images/<class>/<number>.png, grey values 0 (paper) to 255 (ink)."""

    dataset_dir = "digits"
    split_file = "split_zhou_Digits.json"
    what, count = "1,797 handwritten digits", 1797
    class_names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    @staticmethod
    def draw() -> Iterator[tuple[str, np.ndarray]]:
        for number, (ink, label) in enumerate(handwriting()):
            yield f"images/{Digits.class_names[label]}/{number:04}.png", (ink * 255).round().astype("uint8")

    def read_data(self) -> Split:
        return divide_each(self.class_items(self.image_dir))


def handwriting() -> list[tuple[np.ndarray, int]]:
    """scikit-learn's digits: ink (8, 8) in [0, 1], and label, in its order.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the handwritten digits come with scikit-learn; run `pip install scikit-learn`") from error
    digits = load_digits()
    return [(image / 16, int(label)) for image, label in zip(digits.images, digits.target)]
