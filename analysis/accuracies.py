"""The table at the head of the report: how often each model is right, and what tuning changed."""

import numpy as np

from .comparison import Comparison
from .estimates import mean_estimates, over_seeds
from .figures import format_number
from .sections import Table
from .shared import outcomes

HEADING = ["model", "accuracy in % [95 %]", "change, points [95 %]", "corrected", "broken"]


def accuracy_table(comparison: Comparison) -> Table:
    """Accuracy of each model, its paired difference from plain CLIP, and the images it corrects and breaks.

    Of several seeds all are means over them.
    """
    labels = list(comparison.models)
    of_seeds = [outcomes(each, labels) for each in comparison.each_seed()]
    return tabulate(labels, np.array([[found[label] for label in labels] for found in of_seeds], dtype=bool))


def tabulate(labels: list[str], correct: np.ndarray) -> Table:
    """The table of outcomes (seeds, models, images), plain CLIP first.

    >>> tabulate(["a", "b"], np.array([[[True, False], [True, True]]]))[1:]
    [['a', '50 [0, 100]', '', '', ''], ['b', '100 [100, 100]', '50 [0, 100]', '1', '0']]
    """
    plain = correct[:, :1]
    right, change = 100.0 * correct, 100.0 * (correct.astype(int) - plain)
    corrected, broken = (correct & ~plain).sum(-1), (plain & ~correct).sum(-1)
    rows = []
    for m, label in enumerate(labels):
        cells = [mean(right[:, m])]
        cells += (
            [mean(change[:, m]), *(format_number(float(n[:, m].mean())) for n in (corrected, broken))]
            if m
            else [""] * 3
        )
        rows.append([label, *cells])
    return [HEADING, *rows]


def mean(values: np.ndarray) -> str:
    """The mean of (seeds, images), with its interval over images, and its deviation over seeds where they differ."""
    of_seeds = values.mean(-1)
    interval = mean_estimates(values.mean(0, keepdims=True))[0].interval
    return format_number(over_seeds(of_seeds if np.ptp(of_seeds) else of_seeds[:1], interval))
