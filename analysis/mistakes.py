"""The test images that a run is surest of and wrong about, from its `predictions.csv`: no model is needed."""

import base64
import io
import os
from collections import Counter
from dataclasses import dataclass, field

from promptbias.engine.predictions import read_predictions, worst_mistakes
from promptbias.model.images import open_image
from promptbias.utils.errors import UserError

SHOWN, SIDE = 24, 128  # thumbnails, and pixels of the longer side of each
PAIRS = 5  # confused pairs of classes that are listed


@dataclass
class Mistake:
    """One wrong prediction.

    Attributes:
        path: relative to the folder of the datasets.
        true, predicted: class names.
        probability: of the predicted class.
        thumbnail: JPEG in base64; "" if the image cannot be read any more.
    """

    path: str
    true: str
    predicted: str
    probability: float
    thumbnail: str


@dataclass
class Mistakes:
    """What a run got wrong.

    Attributes:
        wrong, total: numbers of test images.
        worst: those with the most probability on the wrong class, that first.
        confused: (true, predicted, number of images) of the pairs of classes that were confused most often.
        left_out: why nothing can be shown, or "".
    """

    wrong: int = 0
    total: int = 0
    worst: list[Mistake] = field(default_factory=list)
    confused: list[tuple[str, str, int]] = field(default_factory=list)
    left_out: str = ""


def find_mistakes(folder: str, root: str) -> Mistakes:
    """The mistakes of the run in `folder`. Opens SHOWN images, however large the test set is.

    Args:
        root: folder of the datasets.
    """
    try:
        predictions = list(read_predictions(folder))
    except UserError as error:
        return Mistakes(left_out=str(error))
    pairs = Counter((row.true, row.predicted) for row in predictions if row.true != row.predicted)
    base = os.path.expanduser(root)
    worst = [Mistake(*row, thumbnail(os.path.join(base, row.path))) for row in worst_mistakes(predictions, SHOWN)]
    confused = [(*pair, count) for pair, count in pairs.most_common(PAIRS)]
    return Mistakes(sum(pairs.values()), len(predictions), worst, confused)


def thumbnail(path: str) -> str:
    """A small JPEG of an image file, in base64; "" if it cannot be read."""
    try:
        image = open_image(path)
    except UserError:
        return ""
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
