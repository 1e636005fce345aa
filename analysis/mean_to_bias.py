"""Prompts turned into biases, without training: what a stock CLIP with their mean contribution as biases achieves."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.branches import branches_with_prompts
from promptbias.interp.mean_to_bias import base_tokens, biased_clip_outcomes

from .comparison import Comparison
from .estimates import Estimate, mean_estimates
from .figures import Result, style, subplots, theme, wrap
from .shared import mean_terms, outcomes


@dataclass
class MeanToBias:
    """Outcomes on I test images of stock CLIPs with the tuned run's mean prompt contribution in their biases.

    Attributes:
        label: of the tuned run.
        template: the stock CLIP's text.
        biased: (I,) by where the biases are, as in `promptbias.interp.mean_to_bias.BIASED`: first in neither branch.
        tuned: (I,) of the tuned run and of those compared with it, by label.
        m: (L, D) by branch: the biases.
    """

    label: str
    template: str
    biased: dict[str, np.ndarray]
    tuned: dict[str, np.ndarray]
    m: dict[str, np.ndarray]

    @property
    def correct(self) -> dict[str, np.ndarray]:
        """All outcomes by title, in the order of the figure."""
        return {**{f"biases in {where}": correct for where, correct in self.biased.items()}, **self.tuned}

    @property
    def changes(self) -> list[Estimate]:
        """Points that each of `correct` gains on the first, with paired intervals."""
        correct = np.array(list(self.correct.values()), float)
        return mean_estimates(100 * (correct - correct[0]))


def compute(comparison: Comparison) -> MeanToBias:
    """Accuracy of stock CLIPs with the tuned run's m in their biases, of the run itself and of those compared with it.

    Raises:
        UserError: the tuned run has no prompts.
    """
    tuned = comparison.tuned
    branches_with_prompts(tuned)
    m = {name: term.bias() for name, term in mean_terms(comparison).items()}
    batches = comparison.batches("stock CLIP with biases")
    biased = biased_clip_outcomes(tuned.clip, m, base_tokens(tuned), batches)
    return MeanToBias(
        label=comparison.label,
        template=tuned.method.base_template(tuned.template),
        biased=biased,
        tuned=outcomes(comparison, list(comparison.models)[1:]),
        m={name: bias.cpu().numpy() for name, bias in m.items()},
    )


@theme()
def plot(found: MeanToBias) -> dict[str, Figure]:
    """Accuracies of the stock CLIPs with biases, then of the tuned runs in their own styles."""
    accuracies = {title: 100 * correct.mean() for title, correct in found.correct.items()}
    models = [0] * len(found.biased) + list(range(1, 1 + len(found.tuned)))
    figure, axes = subplots(height=0.6 + 0.28 * len(accuracies))
    ax = axes[0, 0]
    for at, (percent, change, model) in enumerate(zip(accuracies.values(), found.changes, models)):
        point = {"fmt": style(model)["marker"], "color": style(model)["color"], "elinewidth": 1, "markersize": 5}
        ax.errorbar([percent], [-at], xerr=np.transpose([change.whiskers]), **point)
        above = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{percent:.1f}", (percent, -at), fontsize=7, **above)
    ax.set_yticks([-at for at in range(len(accuracies))], list(accuracies))
    ax.set_ylim(0.4 - len(accuracies), 0.7)
    ax.set_xlabel("accuracy (%)")
    ax.set_title(wrap(f"stock CLIP with “{found.template}” and the mean prompt contribution of: {found.label}", 90))
    return {"mean-to-bias": figure}


def describe(found: MeanToBias) -> str:
    return (
        "m is the mean, over the few-shot training images (in text, over the classes), of what tokens gather from the "
        "prompts; there is one vector per block. Added to the output biases of plain CLIP's attention it takes the "
        f"prompts' place. The result is a stock CLIP with the template “{found.template}”; nothing was trained. If "
        "prompts worked as a constant bias, biases in both branches would come close to the tuned run. In the text "
        "branch SOS gets the bias too, though it comes before the prompts and gathers nothing from them. Bars: paired "
        "95 % bootstrap intervals of the difference from the stock CLIP without biases on the same "
        f"{len(found.tuned[found.label])} test images; the seed of training is not in them."
    )


def headlines(found: MeanToBias) -> list[tuple[str, float]]:
    titles, changes = list(found.correct), found.changes
    accuracies = [(f"{title}: accuracy in %", 100 * float(found.correct[title].mean())) for title in titles]
    return accuracies + [(f"{what}: change from {titles[0]}, points", n) for what, n in zip(titles[1:], changes[1:])]


def arrays(found: MeanToBias) -> dict[str, np.ndarray]:
    correct = np.array(list(found.correct.values()))
    return {
        "models": np.array(list(found.correct)),
        "accuracy": correct.mean(-1),
        "correct": correct,
        "change_interval": np.array([change.interval for change in found.changes]),
        **{f"{name}_m": bias for name, bias in found.m.items()},
    }


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found)
