"""Which mechanism carries the gain? Accuracy after ablations and activation patching of what the prompts do."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.ablations import ABLATED, VARIANTS, variant_outcomes
from promptbias.interp.branches import branches_with_prompts

from .comparison import ZERO_SHOT, Comparison
from .estimates import Estimate, mean_estimates
from .figures import Result, style, subplots, theme, wrap
from .shared import mean_terms, outcomes

PANELS = {"vision": "vision branch", "text": "text branch", "both": "both branches"}


@dataclass
class Ablations:
    """Outcomes of the tuned run with parts of what its prompts do, on I test images.

    Attributes:
        variants: names of the variants, the intact model first.
        ablated: where they were run: "vision", "text", "both" branches; only those with prompts.
        correct: (len(ablated), len(variants), I).
        references: (I,) of zero-shot CLIP and of the tuned run as it is, by label.
        m: (L, D) by branch: the mean of u before W_O, with the heads side by side.
    """

    variants: list[str]
    ablated: list[str]
    correct: np.ndarray
    references: dict[str, np.ndarray]
    m: dict[str, np.ndarray]

    @property
    def accuracy(self) -> np.ndarray:
        """(len(ablated), len(variants)), as a fraction."""
        return self.correct.mean(-1)

    @property
    def changes(self) -> list[list[Estimate]]:
        """Points that each variant gains on the intact model, of each branch, with paired intervals."""
        by_image = 100 * (self.correct.astype(float) - self.correct[:, :1])
        flat = mean_estimates(by_image.reshape(-1, by_image.shape[-1]))
        return [flat[i : i + len(self.variants)] for i in range(0, len(flat), len(self.variants))]


def compute(comparison: Comparison) -> Ablations:
    """Accuracy of every variant over the test set.

    Raises:
        UserError: the tuned run has no prompts.
    """
    with_prompts = {branch.name for branch in branches_with_prompts(comparison.tuned)}
    m = {name: term.mean_u() for name, term in mean_terms(comparison).items()}
    correct = variant_outcomes(comparison.tuned, m, comparison.batches("variants")).numpy()
    ablated = [name for name in ABLATED if name in with_prompts or len(with_prompts) == 2]
    return Ablations(
        variants=list(VARIANTS),
        ablated=ablated,
        correct=correct[[ABLATED.index(name) for name in ablated]],
        references=outcomes(comparison, (ZERO_SHOT, comparison.label)),
        m={name: value.cpu().numpy() for name, value in m.items()},
    )


@theme()
def plot(ablations: Ablations) -> dict[str, Figure]:
    """One panel per branch or both: accuracy of each variant, with lines at the tuned run and zero-shot CLIP."""
    figure, axes = subplots(1, len(ablations.ablated), height=3.2, sharey=True, sharex=True)
    y = np.arange(len(ablations.variants))[::-1]
    behind_number = {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    panels = zip(axes[0], ablations.ablated, ablations.accuracy, ablations.changes)
    for ax, ablated, accuracy, changes in panels:
        for model, (label, reference) in enumerate(ablations.references.items()):
            line = {key: value for key, value in style(model).items() if key != "marker"}
            ax.axvline(100 * reference.mean(), linewidth=1, label=label if model == 0 else f"{label}, intact", **line)
        error = np.transpose([change.whiskers for change in changes])
        ax.errorbar(100 * accuracy, y, xerr=error, fmt="o", color="#333333", elinewidth=1, markersize=4)
        for at, percent in zip(y, 100 * accuracy):
            above = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
            ax.annotate(f"{percent:.1f}", (percent, at), fontsize=7, bbox=behind_number, **above)
        ax.set_title(PANELS[ablated])
        ax.set_xlabel("accuracy (%)")
    names = [wrap(f"{name}: {VARIANTS[name].formula}") for name in ablations.variants]
    axes[0, 0].set_yticks(y, names, va="center")
    axes[0, 0].set_ylim(-0.6, len(ablations.variants) - 0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return {"ablations": figure}


def describe(ablations: Ablations) -> str:
    text = (
        "Each point is the accuracy of the tuned model with parts of what the prompts do ablated or patched, in one "
        "branch or in both; the other branch is intact. a: attention among the inputs; π: attention mass on the "
        "prompts; u: what is gathered from the prompts; m: mean of u over the few-shot training images (in text, over "
        "the classes), one vector per block, that is, a bias. If prompts worked through attention alone, “no prompt "
        "values” and attention patched from the tuned model would keep the accuracy of the full model; if they worked "
        "as a bias alone, “no rescaling”, mean ablation and attention patched from the base model would. Bars: paired "
        "95 % bootstrap intervals of the difference from the full model on the same "
        f"{ablations.correct.shape[-1]} test images; the seed of training is not in them."
    )
    if "text" in ablations.ablated:
        text += (
            " Text prompts replace words of the template: zero ablation leaves their positions empty, so the text "
            "features are not those of zero-shot CLIP. Text attention patched from the base model is that of the "
            "plain text without the template's words, renormalised."
        )
    return text


def headlines(ablations: Ablations) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = [
        (f"{label}: accuracy in %", 100 * float(correct.mean())) for label, correct in ablations.references.items()
    ]
    for ablated, row, changes in zip(ablations.ablated, ablations.accuracy, ablations.changes):
        for variant, accuracy, change in zip(ablations.variants, row, changes):
            found.append((f"{variant}, {PANELS[ablated]}: accuracy in %", 100 * float(accuracy)))
            if variant != ablations.variants[0]:
                found.append((f"{variant}, {PANELS[ablated]}: change from {ablations.variants[0]}, points", change))
    return found


def arrays(ablations: Ablations) -> dict[str, np.ndarray]:
    return {
        "variants": np.array(ablations.variants),
        "ablated": np.array(ablations.ablated),
        "accuracy": ablations.accuracy,
        "correct": ablations.correct,
        "change_interval": np.array([[change.interval for change in row] for row in ablations.changes]),
        **{f"{label}: correct": correct for label, correct in ablations.references.items()},
        **{f"{name}_m": value for name, value in ablations.m.items()},
    }


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found)
