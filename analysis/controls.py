"""What of the prompt term may be held constant, and where does it act? Accuracy with one factor controlled."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.branches import branches_of, branches_with_prompts
from promptbias.interp.controls import CONTROLLED, MASS, ROWS, U, controlled_outcomes, position_means
from promptbias.interp.paired import interval

from .ablations import PANELS
from .comparison import Comparison
from .estimates import Estimate
from .figures import Result, style, subplots, theme
from .findings import Finding

U_NAMES = ("u free", "u: mean per position", "u: one mean", "no u")
MASS_NAMES = ("π free", "π: mean per position", "no π")
ROW_NAMES = ("in all rows", "in the [cls] or EOS row only", "in all other rows only")


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

    def change(self) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy minus that of the intact model, (...), and its paired 95 % interval, (2, ...)."""
        return to_intact(self.accuracy), interval(self.correct, to_intact)

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """The share of the prompts' gain that a control keeps, (...), and its paired 95 % interval, (2, ...).

        1 is the intact model, 0 the model without u and π. NaN where the gain's own interval holds 0.
        """
        low, _ = interval(self.correct, lambda means: -to_intact(means)[..., -1:, -1:, :1])
        share = np.where(low > 0, kept_share(self.accuracy), np.nan)
        return share, np.where(low > 0, interval(self.correct, kept_share), np.nan)


def to_intact(means: np.ndarray) -> np.ndarray:
    """Accuracies (..., U, MASS, ROWS) minus those of the intact model."""
    return means - means[..., :1, :1, :1]


def kept_share(means: np.ndarray) -> np.ndarray:
    """Accuracies (..., U, MASS, ROWS) on a scale from 0, without u and π, to 1, the intact model."""
    full, none = means[..., :1, :1, :1], means[..., -1:, -1:, :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (means - none) / np.where(full == none, np.nan, full - none)


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
    figure, axes = subplots(1, len(controls.controlled), height=4.2, sharex=True, sharey=True)
    change, ends = controls.change()
    lines = [(u, mass) for u in range(len(U)) for mass in range(len(MASS))]
    for panel, (ax, name) in enumerate(zip(axes[0], controls.controlled)):
        ax.axvline(0, color="0.4", linewidth=0.8)
        ax.axvline(100 * change[panel, -1, -1, 0], color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
        for row, label in enumerate(ROW_NAMES):
            x, (low, high) = 100 * change[panel, ..., row].ravel(), 100 * ends[:, panel, ..., row].reshape(2, -1)
            y = 0.25 * (1 - row) - np.arange(len(lines))
            point = {key: style(row + 1)[key] for key in ("marker", "color")} | {"elinewidth": 0.8, "markersize": 4}
            ax.errorbar(x, y, xerr=np.stack([x - low, high - x]).clip(0), linestyle="none", label=label, **point)
        ax.set_title(PANELS[name])
        ax.set_xlabel("change (points)")
    axes[0, 0].set_yticks(-np.arange(len(lines)), [f"{U_NAMES[u]}, {MASS_NAMES[mass]}" for u, mass in lines])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return {"controls": figure}


def describe(controls: Controls) -> str:
    return (
        "With prompts an input gathers (1−π) a v + u: a is the attention among the inputs, π the mass on the prompts, "
        "u what is gathered from them. Each line controls u and π on their own: free; held at the mean over the "
        "few-shot training images (in text, over the classes) for each position, that is, the same for all images; "
        "held at one mean for all positions, that is, a bias; or removed. Each marker says in which rows the prompts "
        "act at all; "
        "the other rows gather a v. Change against the intact model (solid line); dashed: no prompts. Bars: paired "
        f"95 % bootstrap intervals over {controls.correct.shape[-1]} test images; the seed of training is not in them."
    )


def headlines(controls: Controls) -> list[tuple[str, float]]:
    (change, change_ends), (share, share_ends) = controls.change(), controls.kept()
    found: list[tuple[str, float]] = [
        (f"{name}: constancy per position, mean over blocks", float(constancy.mean()))
        for name, constancy in controls.constancy.items()
    ]
    for cell in np.ndindex(controls.accuracy.shape):
        at, u, mass, row = cell
        what = f"{PANELS[controls.controlled[at]]}, {U_NAMES[u]}, {MASS_NAMES[mass]}, {ROW_NAMES[row]}"
        found.append((f"{what}: accuracy in %", 100 * float(controls.accuracy[cell])))
        if cell[1:] != (0, 0, 0):
            low, high = (100 * float(end[cell]) for end in change_ends)
            found.append(
                (f"{what}: change from the intact model, points", Estimate(100 * float(change[cell]), (low, high)))
            )
        if not np.isnan(share[cell]):
            low, high = (float(end[cell]) for end in share_ends)
            found.append((f"{what}: share of the gain kept", Estimate(float(share[cell]), (low, high))))
    return found


def findings(controls: Controls) -> list[Finding]:
    """Of section 3.3, on each branch of the tuned run."""
    share, ends = controls.kept()
    values, value_ends = attention_share(controls.accuracy), interval(controls.correct, attention_share)
    part = "share of the gain kept with u and π constant over images, %"
    more = "share kept without π minus share kept without u, %"
    found = []
    for at, name in enumerate(controls.controlled):
        constant = at, U.index("mean per position"), MASS.index("mean per position"), 0
        gain = not np.isnan(share[constant])
        why = "" if gain else "prompts in this branch gain nothing that could be shared"
        kept = Estimate(100 * share[constant], tuple(100 * ends[(slice(None), *constant)]))
        difference = Estimate(100 * values[at], tuple(100 * value_ends[:, at])) if gain else np.nan
        title = "Both branches" if name == "both" else name.capitalize()
        found += [
            Finding.of(f"{title}: prompts work as a bias, the same for all images", part, kept, 50, cannot_tell=why),
            Finding.of(f"{title}: they work by what they add, not by attention", more, difference, 0, cannot_tell=why),
        ]
    return found


def attention_share(means: np.ndarray) -> np.ndarray:
    """Of accuracies (..., U, MASS, ROWS): the share of the gain that u keeps alone minus that which π keeps alone."""
    kept = kept_share(means)
    return kept[..., 0, -1, 0] - kept[..., -1, 0, 0]


def arrays(controls: Controls) -> dict[str, np.ndarray]:
    (change, change_interval), (kept, kept_interval) = controls.change(), controls.kept()
    return {
        "controlled": np.array(controls.controlled),
        "u": np.array(U),
        "mass": np.array(MASS),
        "rows": np.array(ROWS),
        "correct": controls.correct,
        "change": change,
        "change_interval": change_interval,
        "kept": kept,
        "kept_interval": kept_interval,
        **{f"{name}_constancy": value for name, value in controls.constancy.items()},
    }


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found, findings(found))
