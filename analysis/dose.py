"""Dose-response: accuracy and margin with less, or more, of what was tuned."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.dose import DOSES, SCALED, dose_outcomes

from .ablations import PANELS
from .comparison import Comparison
from .estimates import Estimate, mean_estimates
from .figures import Result, legend, style, subplots, theme

QUANTITIES = {"correct": "accuracy (%)", "margin": "margin (logits)"}


@dataclass
class DoseResponse:
    """Outcomes at A doses in every tuned run of a comparison, on I images.

    Attributes:
        doses: (A,).
        outcomes: label -> "correct" in %, "margin" in logits, (3, A, I) each: in the branches SCALED.
    """

    doses: np.ndarray
    outcomes: dict[str, dict[str, np.ndarray]]

    @property
    def intact(self) -> int:
        """Index of dose 1."""
        return self.doses.tolist().index(1.0)

    def changes(self, label: str, quantity: str) -> list[list[Estimate]]:
        """Of each branch and dose, against dose 1, with paired intervals."""
        by_image = self.outcomes[label][quantity]
        flat = mean_estimates((by_image - by_image[:, [self.intact]]).reshape(-1, by_image.shape[-1]))
        return [flat[i : i + len(self.doses)] for i in range(0, len(flat), len(self.doses))]


def compute(comparison: Comparison) -> DoseResponse:
    """Every dose of every tuned run, over the test images."""
    outcomes = {}
    for label, model in list(comparison.models.items())[1:]:
        found = dose_outcomes(model, comparison.batches("dose"))
        outcomes[label] = {"correct": 100 * found.correct.double().numpy(), "margin": found.margin.double().numpy()}
    return DoseResponse(np.array(DOSES), outcomes)


@theme()
def plot(found: DoseResponse) -> dict[str, Figure]:
    """Accuracy in the upper row, margin in the lower; a panel for each branch and for both."""
    figure, axes = subplots(len(QUANTITIES), len(SCALED), height=2.0, sharex=True, sharey="row")
    for row, (quantity, ylabel) in zip(axes, QUANTITIES.items()):
        for at, (ax, branch) in enumerate(zip(row, SCALED)):
            ax.axvline(1, color="0.6", linewidth=0.8)
            for model, (label, outcomes) in enumerate(found.outcomes.items(), 1):
                error = np.transpose([change.whiskers for change in found.changes(label, quantity)[at]])
                mean = outcomes[quantity][at].mean(-1)
                ax.errorbar(found.doses, mean, error, label=label, elinewidth=0.8, **style(model))
            if quantity == "correct":
                ax.set_title(PANELS[branch])
            else:
                ax.set_xlabel("dose α")
        row[0].set_ylabel(ylabel)
    legend(figure)
    return {"dose": figure}


def describe(found: DoseResponse) -> str:
    images = next(iter(found.outcomes.values()))["margin"].shape[-1]
    return (
        "α scales what tuning does in one branch or in both: biases become α b, other changed parameters move α of "
        "their way, and with prompts an input gathers a v + α ((1−π) a v + u − a v). 1 is the tuned model; 0 is plain "
        "CLIP, but text prompts leave the words that they replace empty. The margin is the logit of the right class "
        "minus the largest other one, mean over images. Bars: paired 95 % bootstrap intervals of the difference from "
        f"α = 1 on the same {images} test images; the seed of training is not in them. A curve that rises steadily up "
        "to 1 says that the tuned effect is a direction, more of which does more, as Ilharco et al. (Editing Models "
        "with Task Arithmetic, 2023) report for weights; a maximum below 1, as Wortsman et al. (Robust fine-tuning of "
        "zero-shot models, 2022) find under distribution shift, would say that tuning goes too far."
    )


def headlines(found: DoseResponse) -> list[tuple[str, float]]:
    """At every second dose; the others are among the arrays."""
    numbers: list[tuple[str, float]] = []
    for label, outcomes in found.outcomes.items():
        changes = found.changes(label, "correct")
        for at, branch in enumerate(SCALED):
            for i in range(0, len(found.doses), 2):
                what = f"{label}, {PANELS[branch]}, α = {found.doses[i]:g}"
                numbers.append((f"{what}: accuracy in %", float(outcomes["correct"][at, i].mean())))
                if i != found.intact:
                    numbers.append((f"{what}: change from α = 1, points", changes[at][i]))
                numbers.append((f"{what}: margin in logits", float(outcomes["margin"][at, i].mean())))
    return numbers


def arrays(found: DoseResponse) -> dict[str, np.ndarray]:
    return {
        "doses": found.doses,
        "scaled": np.array(SCALED),
        **{f"{label}: {name}": values for label, of_run in found.outcomes.items() for name, values in of_run.items()},
    }


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found)
