"""`predictions.csv`: what a test said of every image, written beside `results.json`."""

import csv
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from promptbias.utils.files import atomic_write

FILE = "predictions.csv"
COLUMNS = ("path", "true", "predicted", "probability")


class Predictions:
    """Collects what a test says, batch by batch; the device is waited for only when it is written."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.labels: list[Tensor] = []
        self.predicted: list[Tensor] = []
        self.probabilities: list[Tensor] = []

    def add_images(self, paths: Sequence[str], labels: Tensor) -> None:
        """The files (B,) of a batch and their labels (B,)."""
        self.paths += paths
        self.labels.append(labels)

    def add_logits(self, logits: Tensor) -> None:
        """Logits (B, K) of the batch."""
        probability, label = logits.float().softmax(-1).max(-1)
        self.predicted.append(label)
        self.probabilities.append(probability)

    def write(self, folder: str, names: dict[int, str]) -> None:
        """Write the file into `folder`.

        Args:
            names: label -> class name.
        """
        columns = [torch.cat(values).tolist() for values in (self.labels, self.predicted, self.probabilities)]
        rows = zip(self.paths, *columns)
        with atomic_write(os.path.join(folder, FILE)) as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(COLUMNS)
            out.writerows((path, names[true], names[said], f"{p:.6f}") for path, true, said, p in rows)
