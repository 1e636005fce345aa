"""How much of the gain is one constant vector per branch, added to the features?"""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.feature_shift import KINDS, shift_outcomes, shifts
from promptbias.interp.paired import interval

from .comparison import ZERO_SHOT, Comparison
from .estimates import Estimate
from .figures import Result, style, subplots, theme, wrap

# (image features, text features) of KINDS, in the order of the figure.
ROWS = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2), (2, 2)]


@dataclass
class FeatureShift:
    """Outcomes of plain, shifted and tuned features for every tuned run of a comparison, on I images.

    Attributes:
        correct: label -> (3, 3, I), image features by text features, as in KINDS.
        constancy: label -> "vision" or "text" -> |E d|² / E |d|² of the differences d of the features; NaN without any.
        mean: label -> branch -> δ, (joint width,).
    """

    correct: dict[str, np.ndarray]
    constancy: dict[str, dict[str, float]]
    mean: dict[str, dict[str, np.ndarray]]

    def change(self, label: str) -> list[list[Estimate]]:
        """Points gained on plain features, (3, 3), with paired intervals."""
        return estimates(self.correct[label], lambda means: 100 * gained(means))

    def share(self, label: str) -> list[list[Estimate]]:
        """The same as shares of what the tuned model gains; NaN where that gain's interval holds 0."""
        gain = self.change(label)[-1][-1].interval
        if gain is None or gain[0] <= 0:
            return [[Estimate(np.nan)] * len(KINDS)] * len(KINDS)
        return estimates(self.correct[label], lambda means: gained(means) / gained(means)[..., -1:, -1:])


def gained(means: np.ndarray) -> np.ndarray:
    """Accuracies (..., 3, 3) minus that of plain features."""
    return means - means[..., :1, :1]


def estimates(correct: np.ndarray, statistic) -> list[list[Estimate]]:
    """A statistic of accuracies (..., 3, 3), with its paired interval."""
    with np.errstate(divide="ignore", invalid="ignore"):  # draws in which the tuned model gains nothing
        values, (low, high) = statistic(correct.mean(-1)), interval(correct, statistic)
    return [
        [Estimate(values[cell], (float(low[cell]), float(high[cell]))) for cell in ((i, j) for j in range(len(KINDS)))]
        for i in range(len(KINDS))
    ]


def compute(comparison: Comparison) -> FeatureShift:
    """Shifts from the few-shot training images and the classes, and outcomes over the test images."""
    found = FeatureShift({}, {}, {})
    for label, model in list(comparison.models.items())[1:]:
        of_branch = shifts(comparison.plain, model, comparison.batches("mean shift", "train"))
        batches = comparison.batches("feature shift")
        found.correct[label] = shift_outcomes(comparison.plain, model, of_branch, batches).numpy()
        found.constancy[label] = {branch: shift.constancy for branch, shift in of_branch.items()}
        found.mean[label] = {branch: shift.mean.cpu().numpy() for branch, shift in of_branch.items()}
    return found


@theme()
def plot(found: FeatureShift) -> dict[str, Figure]:
    """A panel for each tuned run, a line for each pair of image and text features."""
    figure, axes = subplots(1, len(found.correct), height=2.9, sharex=True, sharey=True)
    for model, (ax, label) in enumerate(zip(axes[0], found.correct), 1):
        changes = [found.change(label)[i][j] for i, j in ROWS]
        point = {"fmt": style(model)["marker"], "color": style(model)["color"], "elinewidth": 1, "markersize": 5}
        error = np.transpose([change.whiskers for change in changes])
        ax.axvline(0, color="0.4", linewidth=0.8)
        ax.errorbar(changes, -np.arange(len(ROWS)), xerr=error, **point)
        ax.set_title(wrap(label))
        ax.set_xlabel("change of accuracy (points)")
    axes[0, 0].set_yticks(-np.arange(len(ROWS)), [f"image {KINDS[i]}, text {KINDS[j]}" for i, j in ROWS])
    return {"feature-shift": figure}


def describe(found: FeatureShift) -> str:
    images = next(iter(found.correct.values())).shape[-1]
    return (
        "The features of images and texts are plain CLIP's, the tuned run's, or plain CLIP's plus one vector for all: "
        "the mean difference between the two, over the few-shot training images or over the classes. In the image "
        "features such a vector is a bias for each class; in the text features it adds the same to the scores of all "
        "classes. If tuning were a constant per branch, “mean shift” would do what “tuned” does. Bars: paired 95 % "
        f"bootstrap intervals of the difference from plain features on the same {images} test images; the seed of "
        "training is not in them. Liang et al. (Mind the Gap, 2022) moved one modality's features along a constant "
        "vector and found that it changes zero-shot accuracy; here the vector is the one that tuning chose."
    )


def headlines(found: FeatureShift) -> list[tuple[str, float]]:
    numbers: list[tuple[str, float]] = []
    for label, correct in found.correct.items():
        changes, share = found.change(label), found.share(label)
        for branch, constancy in found.constancy[label].items():
            if not np.isnan(constancy):
                numbers.append((f"{label}, {branch}: constancy of the features' shift", constancy))
        for i, j in ROWS:
            what = f"{label}, image {KINDS[i]}, text {KINDS[j]}"
            numbers.append((f"{what}: accuracy in %", 100 * float(correct[i, j].mean())))
            if (i, j) != (0, 0):
                numbers.append((f"{what}: change from {ZERO_SHOT}, points", changes[i][j]))
                if not np.isnan(share[i][j]):
                    numbers.append((f"{what}: share of the gain", share[i][j]))
    return numbers


def arrays(found: FeatureShift) -> dict[str, np.ndarray]:
    of_run = {f"{label}: correct": correct for label, correct in found.correct.items()}
    means = {f"{label}: {branch}": mean for label, of in found.mean.items() for branch, mean in of.items()}
    return {"kinds": np.array(KINDS), **of_run, **means}


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found)
