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
    """Write `predictions.csv` into the folder of a run; bytes of a file name that are no UTF-8 are escaped."""
    with atomic_write(os.path.join(folder, PREDICTIONS)) as file:
        plain, quoted = (
            csv.writer(file, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
        plain.writerow(Prediction._fields)
        for path, true, predicted, probability in predictions:
            words = [word.encode(errors="backslashreplace").decode() for word in (path, true, predicted)]
            # Python before 3.13 leaves a lone carriage return unquoted, and then takes it for the end of a row.
            (quoted if "\r" in "".join(words) else plain).writerow([*words, f"{probability:.6f}"])


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
            for words in rows:
                row = Prediction(words[0], words[1], words[2], float(words[3])) if len(words) == 4 else None
                if row is None or not 0 <= row.probability <= 1:
                    raise ValueError(f"line {rows.line_num} is no prediction")
                yield row
    except (ValueError, csv.Error) as error:  # bad UTF-8 is a ValueError too
        raise UserError(f"{path} is damaged ({error}); remove it and test the run with --eval-only") from error


def worst_mistakes(predictions: Iterable[Prediction], count: int) -> list[Prediction]:
    """The `count` wrong predictions of the highest probability, the highest first."""
    wrong = (row for row in predictions if row.true != row.predicted)
    return heapq.nsmallest(count, wrong, key=lambda row: (-row.probability, row.path))
