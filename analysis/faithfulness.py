"""Are the relevancy maps faithful? Deletion curves: accuracy while patches are deleted in the order of a map."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.faithfulness import FRACTIONS, LEAST, MAPS, MOST, RANDOM, Curve, deletion_area, deletion_curves

from .comparison import Comparison
from .figures import Result, style, subplots, theme, wrap


@dataclass
class Faithfulness:
    """Deletion curves of every model of a comparison.

    Attributes:
        fractions: (F,) of the patches deleted.
        curves: model -> (map, MOST or LEAST) or (RANDOM,) -> accuracy in %, (F,); maps as in
            `promptbias.interp.faithfulness.MAPS`.
    """

    fractions: np.ndarray
    curves: dict[str, dict[Curve, np.ndarray]]


def compute(comparison: Comparison, seed: int = 0) -> Faithfulness:
    """Deletion curves over the test images; `seed` is that of the random orders."""
    curves = deletion_curves(comparison.models, comparison.batches("faithfulness"), seed)
    return Faithfulness(np.array(FRACTIONS), curves)


@theme()
def plot(faithfulness: Faithfulness) -> dict[str, Figure]:
    """A row per model, a column per map."""
    figure, axes = subplots(len(faithfulness.curves), len(MAPS), height=1.9, sharex=True, sharey=True)
    x = 100 * faithfulness.fractions
    for model, (row, (label, curves)) in enumerate(zip(axes, faithfulness.curves.items())):
        line = style(model)
        for ax, (name, title) in zip(row, MAPS.items()):
            ax.fill_between(x, curves[name, MOST], curves[name, LEAST], color=line["color"], alpha=0.1, linewidth=0)
            ax.plot(x, curves[RANDOM,], color="#888888", linewidth=1, label=RANDOM)
            ax.plot(x, curves[name, MOST], **line, label=MOST)
            ax.plot(x, curves[name, LEAST], **line, markerfacecolor="white", label=LEAST)
            if model == 0:
                ax.set_title(title)
        row[0].set_ylabel(f"{wrap(label)}\naccuracy (%)")
    for ax in axes[-1]:
        ax.set_xlabel("patches deleted (%)")
    axes[0, 0].set_ylim(bottom=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return {"faithfulness": figure}


def describe(faithfulness: Faithfulness) -> str:
    return (
        "Patches are deleted from every image in the order of a map, and the accuracy is followed. Filled markers: "
        "most relevant first, where a faithful map makes the accuracy fall early; open markers: least relevant first, "
        "where the accuracy stays high for long. Grey: random order. The wider the gap between the two curves, the "
        "more faithful the map. Relevancy of the image's own class uses the label, so the accuracy can even rise; "
        "relevancy of the class that the model itself predicts does not, nor does the attention of [cls] to the "
        "patches in the last block (mean over heads). Deleted patches are dropped from the sequence after the "
        "positional embedding; with all of them deleted, only [cls] is left, and the prompts if there are any."
    )


def headlines(faithfulness: Faithfulness) -> list[tuple[str, float]]:
    found = []
    for label, curves in faithfulness.curves.items():
        area = {curve: deletion_area(accuracy) for curve, accuracy in curves.items()}
        for name, title in MAPS.items():
            found += [
                (f"{label}, {title}, {MOST}: area, mean accuracy in %", area[name, MOST]),
                (f"{label}, {title}, {LEAST}: area, mean accuracy in %", area[name, LEAST]),
                (f"{label}, {title}: gap between the two areas", area[name, LEAST] - area[name, MOST]),
            ]
        found.append((f"{label}, {RANDOM}: area, mean accuracy in %", area[RANDOM,]))
    return found


def arrays(faithfulness: Faithfulness) -> dict[str, np.ndarray]:
    curves = {
        ", ".join((label, *curve)): accuracy
        for label, curves in faithfulness.curves.items()
        for curve, accuracy in curves.items()
    }
    return {**curves, "fractions": faithfulness.fractions}


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found))
