"""How constant is what the prompts contribute?

A bias adds the same vector to every token of every image. Prompts add u (see `promptbias.interp.decomposition`), which
depends on the token that attends to them. For each block, |E u|² / E |u|² over tokens and images is 1 if u is a bias,
and 1/n if n tokens have independent u of mean 0.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.branches import branches_with_prompts
from promptbias.interp.prompt_term import PromptTerm

from .comparison import Comparison
from .figures import READOUT, READOUT_STYLE, Result, block_axis, legend, style, subplots, theme


@dataclass
class BranchConstancy:
    """Of one branch. L blocks; S = 2 sets of rows: all inputs, and the readout row alone.

    Attributes:
        readout: name of the readout row, "[cls]" or "EOS".
        count: (S,) rows.
        of_mean: |E u|², (L, S).
        mean: E |u|², (L, S).
    """

    readout: str
    count: np.ndarray
    of_mean: np.ndarray
    mean: np.ndarray

    @property
    def constancy(self) -> np.ndarray:
        """|E u|² / E |u|², (L, S)."""
        return self.of_mean / self.mean

    @property
    def length(self) -> np.ndarray:
        """Root mean square length of u, (L, S)."""
        return np.sqrt(self.mean)

    @property
    def weighted(self) -> np.ndarray:
        """Mean constancy of the blocks, weighted by E |u|²: (S,)."""
        return self.of_mean.sum(0) / self.mean.sum(0)


@dataclass
class Constancy:
    """Constancy of the prompt term of the tuned run, by branch with prompts ("vision", "text")."""

    branches: dict[str, BranchConstancy]


def compute(comparison: Comparison) -> Constancy:
    """Constancy of every block over all test images and all classes.

    Raises:
        UserError: the tuned run has no prompts.
    """
    branches = {}
    for branch in branches_with_prompts(comparison.tuned):
        term = PromptTerm(branch).stream(branch.inputs(comparison.batches("constancy")))
        of_mean, mean = (squares.cpu().numpy() for squares in term.squared_lengths())
        branches[branch.name] = BranchConstancy(branch.readout, term.count.cpu().numpy(), of_mean, mean)
    return Constancy(branches)


@theme()
def plot(constancy: Constancy) -> dict[str, Figure]:
    """One column per branch: constancy, and length of u, over the blocks."""
    figure, axes = subplots(2, len(constancy.branches), height=1.9)
    for column, (name, branch) in zip(axes.T, constancy.branches.items()):
        rows = (
            (branch.constancy, "constancy\n|E u|² / E |u|²", 1.03),
            (branch.length, "root mean square\nlength of u", None),
        )
        for ax, (values, label, top) in zip(column, rows):
            x = np.arange(1, len(values) + 1)
            ax.plot(x, values[:, 0], label="all inputs", **style(1))
            ax.plot(x, values[:, 1], label=READOUT, **READOUT_STYLE)
            ax.set_ylim(0, top)
            ax.set_ylabel(label)
            block_axis(ax, len(values))
        column[0].set_title(f"{name} branch")
    legend(figure)
    return {"constancy": figure}


def describe(constancy: Constancy) -> str:
    counts = "; ".join(
        f"{name}: {int(branch.count[0])} inputs, of which {int(branch.count[1])} {branch.readout}"
        for name, branch in constancy.branches.items()
    )
    return (
        "u is what a token gathers from the prompts. |E u|² / E |u|² is 1 where every token of every image gathers "
        f"the same, as it would from a bias, and 1/n where n tokens have nothing in common ({counts}). The second "
        "curve is over the readout row alone: [cls] over images, EOS over classes. The lower row shows the length of "
        "u: where u is short, its constancy matters little; the mean weighted by E |u|² takes that into account."
    )


def headlines(constancy: Constancy) -> list[tuple[str, float]]:
    found = []
    for name, branch in constancy.branches.items():
        for rows, values, weighted in zip(("all inputs", branch.readout), branch.constancy.T, branch.weighted):
            found += [
                (f"{name}: constancy over {rows}, mean over blocks", float(values.mean())),
                (f"{name}: constancy over {rows}, blocks weighted by E |u|²", float(weighted)),
                (f"{name}: constancy over {rows}, lowest block", float(values.min())),
                (f"{name}: constancy over {rows}, highest block", float(values.max())),
            ]
    return found


def arrays(constancy: Constancy) -> dict[str, np.ndarray]:
    found = {}
    for name, branch in constancy.branches.items():
        found.update({f"{name}_constancy": branch.constancy, f"{name}_length": branch.length})
    return found


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found)
