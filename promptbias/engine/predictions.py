"""Which class each test image was given, and how surely: `predictions.csv` in the folder of a run. Needs no torch."""

import csv
import heapq
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write, regular_file

PREDICTIONS = "predictions.csv"


class Prediction(NamedTuple):
    """One test image.

    Attributes:
        path: relative to DATASET.ROOT, so that runs on different machines can be compared.
        true, predicted: class names.
        probability: that the model gives to the predicted class.
    """

    path: str
    true: str
    predicted: str
    probability: float


def write_predictions(predictions: Iterable[Prediction], folder: str) -> None:
    """Write `predictions.csv` into the folder of a run."""
    with atomic_write(os.path.join(folder, PREDICTIONS)) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Prediction._fields)
        writer.writerows((*row[:3], f"{row.probability:.6f}") for row in predictions)


def read_predictions(folder: str) -> Iterator[Prediction]:
    """The predictions of the run in `folder`, in the order of its test set, one at a time.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    path = os.path.join(folder, PREDICTIONS)
    if not os.path.exists(path):
        raise UserError(
            f"{folder} holds no {PREDICTIONS}, as runs of earlier versions do not; test it with --eval-only"
        )
    try:
        with open(regular_file(path), encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)
            if tuple(next(rows, ())) != Prediction._fields:
                raise ValueError(f"its first line is not {','.join(Prediction._fields)}")
            for image, true, predicted, probability in rows:
                row = Prediction(image, true, predicted, float(probability))
                if not 0 <= row.probability <= 1:
                    raise ValueError(f"{probability} is no probability")
                yield row
    except (ValueError, csv.Error) as error:  # bad UTF-8 is a ValueError, as is a line of another length
        raise UserError(f"{path} is damaged ({error}); remove it and test the run with --eval-only") from error


def worst_mistakes(predictions: Iterable[Prediction], count: int) -> list[Prediction]:
    """The `count` wrong predictions of the highest probability, the highest first."""
    wrong = (row for row in predictions if row.true != row.predicted)
    return heapq.nsmallest(count, wrong, key=lambda row: (-row.probability, row.path))
