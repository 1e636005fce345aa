"""Which mechanism carries the gain? Accuracy after ablations and activation patching of what the prompts do."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.ablations import ABLATED, VARIANTS, variant_accuracies
from promptbias.interp.accuracy import model_accuracies, wilson_errors
from promptbias.interp.branches import branches_of, branches_with_prompts
from promptbias.interp.prompt_term import PromptTerm

from .comparison import ZERO_SHOT, Comparison
from .figures import Result, style, subplots, theme, wrap

PANELS = {"vision": "vision branch", "text": "text branch", "both": "both branches"}


@dataclass
class Ablations:
    """Accuracy of the tuned run, as a fraction, with parts of what its prompts do.

    Attributes:
        variants: names of the variants.
        ablated: where they were run: "vision", "text", "both" branches; only those with prompts.
        accuracy: (len(ablated), len(variants)).
        references: accuracy of zero-shot CLIP and of the tuned run as it is, by label.
        m: (L, D) by branch: the mean of u before W_O, with the heads side by side.
        images: number of test images.
    """

    variants: list[str]
    ablated: list[str]
    accuracy: np.ndarray
    references: dict[str, float]
    m: dict[str, np.ndarray]
    images: int


def compute(comparison: Comparison) -> Ablations:
    """Accuracy of every variant over the test set.

    Raises:
        UserError: the tuned run has no prompts.
    """
    with_prompts = {branch.name for branch in branches_with_prompts(comparison.tuned)}
    m = {
        branch.name: PromptTerm(branch).stream(branch.inputs(comparison.batches("mean of u", "train"))).mean_u()
        for branch in branches_of(comparison.tuned)
    }
    accuracy, count = variant_accuracies(comparison.tuned, m, comparison.batches("variants"))
    references = {label: comparison.models[label] for label in (ZERO_SHOT, comparison.label)}
    ablated = [name for name in ABLATED if name in with_prompts or len(with_prompts) == 2]
    return Ablations(
        variants=list(VARIANTS),
        ablated=ablated,
        accuracy=accuracy.numpy()[[ABLATED.index(name) for name in ablated]],
        references=model_accuracies(references, comparison.batches("zero-shot and tuned")),
        m={name: value.cpu().numpy() for name, value in m.items()},
        images=count,
    )


@theme()
def plot(ablations: Ablations) -> dict[str, Figure]:
    """One panel per branch or both: accuracy of each variant, with lines at the tuned run and zero-shot CLIP."""
    figure, axes = subplots(1, len(ablations.ablated), height=3.2, sharey=True, sharex=True)
    y = np.arange(len(ablations.variants))[::-1]
    behind_number = {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    for ax, ablated, accuracy in zip(axes[0], ablations.ablated, ablations.accuracy):
        for model, (label, reference) in enumerate(ablations.references.items()):
            line = {key: value for key, value in style(model).items() if key != "marker"}
            ax.axvline(100 * reference, linewidth=1, label=label if model == 0 else f"{label}, intact", **line)
        error = 100 * wilson_errors(accuracy, ablations.images)
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
        "as a bias alone, “no rescaling”, mean ablation and attention patched from the base model would. Bars: 95 % "
        f"Wilson intervals for {ablations.images} test images."
    )
    if "text" in ablations.ablated:
        text += (
            " Text prompts replace words of the template: zero ablation leaves their positions empty, so the text "
            "features are not those of zero-shot CLIP. Text attention patched from the base model is that of the "
            "plain text without the template's words, renormalised."
        )
    return text


def headlines(ablations: Ablations) -> list[tuple[str, float]]:
    found = [(f"{label}: accuracy in %", 100 * accuracy) for label, accuracy in ablations.references.items()]
    return found + [
        (f"{variant}, {PANELS[ablated]}: accuracy in %", 100 * float(accuracy))
        for ablated, row in zip(ablations.ablated, ablations.accuracy)
        for variant, accuracy in zip(ablations.variants, row)
    ]


def arrays(ablations: Ablations) -> dict[str, np.ndarray]:
    return {
        "variants": np.array(ablations.variants),
        "ablated": np.array(ablations.ablated),
        "accuracy": ablations.accuracy,
        "images": np.array(ablations.images),
        **{f"{name}_m": value for name, value in ablations.m.items()},
    }


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found))
