"""What of the prompt term may be held constant? Accuracy with one factor controlled at a time."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.branches import branches_of, branches_with_prompts
from promptbias.interp.controls import CONTROLLED, MASS, ROWS, U, controlled_outcomes, position_means
from promptbias.interp.paired import interval

from .ablations import PANELS
from .comparison import Comparison
from .figures import Result, style, subplots, theme

U_NAMES = ("u free", "u: mean per position", "u: one mean", "no u")
MASS_NAMES = ("π free", "π: mean per position", "no π")
# The effect of prompts in the first rows only, and π as it is: how the panels' points are drawn.
ROW_NAMES = {"all rows": "all rows", "readout row": "[cls] or EOS only", "other rows": "all other rows only"}


@dataclass
class Controls:
    """Outcomes of the tuned run under every control.

    Attributes:
        controlled: where: "vision", "text", "both" branches; only those with prompts.
        correct: (len(controlled), len(U), len(MASS), len(ROWS), images), bool.
        constancy: by branch with prompts, E_p |E u|² / E |u|² of each block, (L,), over the test images.
    """

    controlled: list[str]
    correct: np.ndarray
    constancy: dict[str, np.ndarray]

    @property
    def accuracy(self) -> np.ndarray:
        """As `correct`, without images: fractions."""
        return self.correct.mean(-1)

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """The share of the prompts' gain that each control keeps, and its paired 95 % interval: (...) and (2, ...).

        1 is the intact model, 0 the model without u and π. NaN where prompts gain nothing.
        """

        def share(means: np.ndarray) -> np.ndarray:  # (..., controlled, U, MASS, ROWS)
            full, none = (means[..., i, j, :1][..., None, None, :] for i, j in ((0, 0), (-1, -1)))
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(full == none, np.nan, (means - none) / (full - none))

        return share(self.accuracy), interval(self.correct, share)


def compute(comparison: Comparison) -> Controls:
    """Outcomes of every control over the test images, with means over the few-shot training images.

    Raises:
        UserError: the tuned run has no prompts.
    """
    with_prompts = branches_with_prompts(comparison.tuned)
    means = {
        branch.name: position_means(branch, comparison.batches("means of u and π", "train"))
        for branch in branches_of(comparison.tuned)
    }
    constancy = {
        branch.name: position_means(branch, comparison.batches("constancy per position")).constancy().cpu().numpy()
        for branch in with_prompts
    }
    correct = controlled_outcomes(comparison.tuned, means, comparison.batches("controls")).numpy()
    names = {branch.name for branch in with_prompts}
    controlled = [name for name in CONTROLLED if name in names or len(names) == 2]
    return Controls(controlled, correct[[CONTROLLED.index(name) for name in controlled]], constancy)


@theme()
def plot(controls: Controls) -> dict[str, Figure]:
    """One panel per branch or both: a line for each treatment of u and π, a marker for each choice of rows."""
    figure, axes = subplots(1, len(controls.controlled), height=3.4, sharex=True, sharey=True)
    lines = [(u, mass) for u in range(len(U)) for mass in range(len(MASS))]
    for ax, name, accuracy in zip(axes[0], controls.controlled, 100 * controls.accuracy):
        for row, label in enumerate(ROWS):
            y = -np.arange(len(lines)) + 0.2 * (1 - row)
            ax.plot(
                [accuracy[u, mass, row] for u, mass in lines],
                y,
                **{**style(row + 1), "linestyle": "none", "markersize": 4},
                label=ROW_NAMES[label],
            )
        for reference, at, text in ((accuracy[0, 0, 0], 0, "intact"), (accuracy[-1, -1, 0], 1, "no prompts")):
            ax.axvline(reference, color="0.4", linewidth=0.8, linestyle=["-", (0, (4, 3))][at], label=text)
        ax.set_title(PANELS[name])
        ax.set_xlabel("accuracy (%)")
    axes[0, 0].set_yticks([-i for i in range(len(lines))], [f"{U_NAMES[u]}, {MASS_NAMES[mass]}" for u, mass in lines])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return {"controls": figure}
