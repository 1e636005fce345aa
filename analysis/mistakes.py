"""Which test images does the tuned run get wrong with the most confidence, and what does plain CLIP say of them?"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from .comparison import ZERO_SHOT, Comparison
from .figures import Result, subplots, theme, wrap

COLUMNS, ROWS = 6, 3  # pictures that are shown


@dataclass
class Mistakes:
    """The tuned run's mistakes, the most confident first: N of them, of which `pictures` shows the first.

    Attributes:
        index: (N,) of the images among those that were tested.
        paths: (N,) files.
        true, said: (N,) names of the class, and of the one that the tuned run predicts.
        probability: (N,) of the predicted class.
        plain: (N,) names of the classes that plain CLIP predicts.
        pictures: (at most COLUMNS * ROWS, S, S, 3), from 0 to 1.
        images: number of test images.
    """

    index: np.ndarray
    paths: np.ndarray
    true: np.ndarray
    said: np.ndarray
    probability: np.ndarray
    plain: np.ndarray
    pictures: np.ndarray
    images: int


@torch.no_grad()
def compute(comparison: Comparison) -> Mistakes:
    """The mistakes over the test images."""
    labels, plain, tuned = [], [], []
    for image, label in comparison.batches("mistakes"):
        labels.append(label.cpu())
        plain.append(comparison.plain.logits(image).argmax(-1).cpu())
        tuned.append(comparison.tuned.logits(image).softmax(-1).cpu())
    label, of_plain, probabilities = torch.cat(labels), torch.cat(plain), torch.cat(tuned)
    probability, said = probabilities.max(-1)
    wrong = (said != label).nonzero()[:, 0]
    index = wrong[probability[wrong].argsort(descending=True, stable=True)]
    names = np.array(comparison.classnames)
    shown = [comparison.picture(comparison.image(int(i))[0]) for i in index[: COLUMNS * ROWS]]
    return Mistakes(
        index=index.numpy(),
        paths=np.array([comparison.path(int(i)) for i in index]),
        true=names[label[index]],
        said=names[said[index]],
        probability=probability[index].numpy(),
        plain=names[of_plain[index]],
        pictures=np.array(shown),
        images=len(label),
    )


@theme()
def plot(mistakes: Mistakes) -> dict[str, Figure]:
    """The pictures, the most confident mistake first."""
    if not len(mistakes.pictures):
        return {}
    rows = -(-len(mistakes.pictures) // COLUMNS)
    figure, axes = subplots(rows, COLUMNS, height=1.75)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, picture) in enumerate(zip(axes.flat, mistakes.pictures)):
        ax.imshow(picture)
        said = f"{mistakes.said[i]} {100 * mistakes.probability[i]:.0f} %"
        ax.set_title(f"{wrap(said, 18)}\ntrue: {wrap(str(mistakes.true[i]), 14)}", fontsize=6.5)
    return {"mistakes": figure}


def describe(mistakes: Mistakes) -> str:
    return (
        f"Of {mistakes.images} test images the tuned run gets {len(mistakes.index)} wrong; shown are those in which it "
        "is most confident: above each picture the predicted class with its probability, and the true one. All of them "
        f"are in mistakes.npz, with what {ZERO_SHOT} says; every test image is in the run's predictions.csv."
    )


def headlines(mistakes: Mistakes) -> list[tuple[str, float]]:
    found = [
        ("mistakes", len(mistakes.index)),
        (f"of these right in {ZERO_SHOT}", int((mistakes.plain == mistakes.true).sum())),
    ]
    pairs = [f"{true} taken for {said}" for true, said in zip(mistakes.true, mistakes.said)]
    kinds, counts = np.unique(pairs, return_counts=True)
    return found + [(str(kinds[i]), int(counts[i])) for i in np.argsort(-counts, kind="stable")[:5]]


def arrays(mistakes: Mistakes) -> dict[str, np.ndarray]:
    return {name: getattr(mistakes, name) for name in ("index", "paths", "true", "said", "probability", "plain")}


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found))
