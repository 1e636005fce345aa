"""Are the relevancy maps faithful? Deletion curves: accuracy while patches are deleted in the order of a map."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.faithfulness import FRACTIONS, LEAST, MAPS, MOST, RANDOM, Curve, deletion_area, deletion_curves

from .comparison import Comparison
from .estimates import Estimate, mean_estimates
from .figures import Result, style, subplots, theme, wrap


@dataclass
class Faithfulness:
    """Outcomes along the deletion in every model of a comparison, on I images.

    Attributes:
        fractions: (F,) of the patches deleted.
        correct: model -> (map, MOST or LEAST) or (RANDOM,) -> whether each image is right, (F, I); maps as in
            `promptbias.interp.faithfulness.MAPS`.
    """

    fractions: np.ndarray
    correct: dict[str, dict[Curve, np.ndarray]]

    def curves(self, label: str) -> dict[Curve, np.ndarray]:
        """Accuracy of a model in %, (F,) each."""
        return {curve: 100 * correct.mean(-1) for curve, correct in self.correct[label].items()}

    def areas(self, label: str) -> dict[Curve, np.ndarray]:
        """Areas under the curves of a model image by image, in %, (I,) each: their means are those of the accuracy."""
        return {curve: 100 * deletion_area(correct) for curve, correct in self.correct[label].items()}

    def against_chance(self, label: str) -> dict[Curve, Estimate]:
        """Area under each curve of a map minus that of the random order, with paired intervals."""
        areas = self.areas(label)
        random = areas.pop((RANDOM,))
        return dict(zip(areas, mean_estimates(np.array(list(areas.values())) - random)))


def compute(comparison: Comparison, seed: int = 0) -> Faithfulness:
    """Deletion over the test images; `seed` is that of the random orders."""
    correct = deletion_curves(comparison.models, comparison.batches("faithfulness"), seed)
    return Faithfulness(np.array(FRACTIONS), correct)


def plot(faithfulness: Faithfulness) -> dict[str, Figure]:
    return {"faithfulness": plot_curves(faithfulness), "faithfulness-areas": plot_areas(faithfulness)}


@theme()
def plot_curves(faithfulness: Faithfulness) -> Figure:
    """A row per model, a column per map."""
    figure, axes = subplots(len(faithfulness.correct), len(MAPS), height=1.9, sharex=True, sharey=True)
    x = 100 * faithfulness.fractions
    for model, (row, label) in enumerate(zip(axes, faithfulness.correct)):
        line, curves = style(model), faithfulness.curves(label)
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
    return figure


@theme()
def plot_areas(faithfulness: Faithfulness) -> Figure:
    """A panel per model: the areas of both directions of each map against chance."""
    figure, axes = subplots(1, len(faithfulness.correct), height=2.1, sharex=True, sharey=True)
    for model, (ax, label) in enumerate(zip(axes[0], faithfulness.correct)):
        areas, line = faithfulness.against_chance(label), style(model)
        ax.axvline(0, color="#888888", linewidth=1, label=RANDOM)
        for direction, face in ((MOST, line["color"]), (LEAST, "white")):
            found = [areas[name, direction] for name in MAPS]
            point = {"fmt": line["marker"], "color": line["color"], "markerfacecolor": face, "markersize": 5}
            error = np.transpose([area.whiskers for area in found])
            ax.errorbar(found, -np.arange(len(found)), xerr=error, elinewidth=1, label=direction, **point)
        ax.set_title(wrap(label))
        ax.set_xlabel("area against chance (points)")
    axes[0, 0].set_yticks(-np.arange(len(MAPS)), [wrap(title) for title in MAPS.values()])
    axes[0, 0].set_ylim(0.5 - len(MAPS), 0.5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def describe(faithfulness: Faithfulness) -> str:
    images = next(iter(next(iter(faithfulness.correct.values())).values())).shape[-1]
    return (
        "Patches are deleted from every image in the order of a map, and the accuracy is followed. Filled markers: "
        "most relevant first, where a faithful map makes the accuracy fall early; open markers: least relevant first, "
        "where the accuracy stays high for long. Grey: random order, chance. The area under a curve is the mean "
        "accuracy along the deletion; a faithful map is far below chance in the first direction and far above it in "
        "the second, and the gap between the two adds both up, so look at each. Relevancy of the image's own class "
        "uses the label, so the accuracy can even rise; relevancy of the class that the model itself predicts does "
        "not, nor does the attention of [cls] to the patches in the last block (mean over heads). Deleted patches are "
        "dropped from the sequence after the positional embedding; with all of them deleted, only [cls] is left, and "
        f"the prompts if there are any. Bars and brackets: paired 95 % bootstrap intervals over {images} test images; "
        "the seed of training is not in them."
    )


def headlines(faithfulness: Faithfulness) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for label in faithfulness.correct:
        areas, chance = faithfulness.areas(label), faithfulness.against_chance(label)
        found.append((f"{label}, {RANDOM}: area, mean accuracy in %", float(areas[RANDOM,].mean())))
        gaps = mean_estimates(np.array([areas[name, LEAST] - areas[name, MOST] for name in MAPS]))
        for (name, title), gap in zip(MAPS.items(), gaps):
            for direction in (MOST, LEAST):
                what = f"{label}, {title}, {direction}"
                found.append((f"{what}: area, mean accuracy in %", float(areas[name, direction].mean())))
                found.append((f"{what}: area against chance, points", chance[name, direction]))
            found.append((f"{label}, {title}: gap between the two areas", gap))
        found += against_attention(label, areas)
    return found


def against_attention(label: str, areas: dict[Curve, np.ndarray]) -> list[tuple[str, float]]:
    """How much the areas of each relevancy differ from those of attention, in each direction and in the gap."""
    what, by_image = [], []
    for name in [name for name in MAPS if name != "attention"]:
        most, least = (areas[name, direction] - areas["attention", direction] for direction in (MOST, LEAST))
        for part, values in ((f"{MOST} (lower is better)", most), (f"{LEAST}", least), ("gap", least - most)):
            what.append(f"{label}, {MAPS[name]} minus {MAPS['attention']}, {part}: area, points")
            by_image.append(values)
    return list(zip(what, mean_estimates(np.array(by_image))))


def arrays(faithfulness: Faithfulness) -> dict[str, np.ndarray]:
    """Accuracies in %, (F,), and after them outcomes of every image, (F, I)."""
    found = {"fractions": faithfulness.fractions}
    for label, of_model in faithfulness.correct.items():
        for curve, accuracy in faithfulness.curves(label).items():
            found[", ".join((label, *curve))] = accuracy
            found[", ".join((label, *curve, "correct"))] = of_model[curve]
    return found


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found)
