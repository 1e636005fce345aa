"""How much of the attention update comes from the prompts, in every block and head (eqs. 12, 17-33)."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.branches import branches_with_prompts
from promptbias.interp.prompt_term import PromptShares

from .comparison import Comparison
from .figures import READOUT, READOUT_STYLE, Result, block_axis, legend, style, subplots, theme
from .findings import Finding

EXACT = 0.01  # %, far above rounding
INPUTS = {"vision": "[cls] and patches", "text": "all tokens after the prompts, up to EOS"}


@dataclass
class Decomposition:
    """The prompts' share of the attention updates of the tuned run, by branch with prompts ("vision", "text").

    L blocks, H heads; S = 2 sets of rows: all inputs, and the readout row ([cls] or EOS) alone.

    Attributes:
        shares: branch -> "prompt_mass", "head", "moved" (L, S, H) and "block" (L, S, 1), as in `PromptShares`.
        error: branch -> largest error of the sum of the parts, relative to the largest update.
    """

    shares: dict[str, dict[str, np.ndarray]]
    error: dict[str, float]


def compute(comparison: Comparison) -> Decomposition:
    """Shares of the prompts over all test images and all classes.

    Raises:
        UserError: the tuned run has no prompts.
    """
    found = Decomposition({}, {})
    for branch in branches_with_prompts(comparison.tuned):
        statistics = PromptShares(branch).stream(branch.inputs(comparison.batches("decomposition")))
        found.shares[branch.name] = {name: mean.cpu().numpy() for name, mean in statistics.means().items()}
        found.error[branch.name] = statistics.error
    return found


def plot(decomposition: Decomposition) -> dict[str, Figure]:
    return {"decompose": plot_blocks(decomposition), "decompose-heads": plot_heads(decomposition)}


@theme()
def plot_blocks(decomposition: Decomposition) -> Figure:
    """One column per branch: attention mass, share of the update, moved attention, over the blocks."""
    rows = (
        ("prompt_mass", "prompt_mass", "attention mass\non prompts, π"),
        ("head", "block", "prompts' share of\nthe update's length"),
        ("moved", "moved", "attention among inputs\nthat moved"),
    )
    figure, axes = subplots(len(rows), len(decomposition.shares), height=1.9)
    tuned = style(1)
    dots = {"linestyle": "none", "marker": tuned["marker"], "color": tuned["color"], "alpha": 0.4, "markeredgewidth": 0}
    for column, (branch, shares) in zip(axes.T, decomposition.shares.items()):
        for ax, (heads, block, label) in zip(column, rows):
            of_heads, of_block = shares[heads][:, 0], shares[block].mean(-1)
            x = np.arange(1, len(of_block) + 1)
            ax.plot(x, of_heads, **dots, label=["all inputs, one head"] + [None] * (of_heads.shape[1] - 1))
            ax.plot(x, of_block[:, 0], label="all inputs", **tuned)
            ax.plot(x, of_block[:, 1], label=READOUT, **READOUT_STYLE)
            ax.set_ylim(0, 1.1 * max(of_heads.max(), of_block.max()))
            ax.set_ylabel(label)
            block_axis(ax, len(of_block))
        column[0].set_title(f"{branch} branch")
    legend(figure)
    return figure


@theme()
def plot_heads(decomposition: Decomposition) -> Figure:
    """One column per branch: attention mass and share of every head, of all inputs; one colour scale for each row."""
    rows = (("prompt_mass", "attention mass\non prompts, π"), ("head", "prompts' share of\nthe head's update"))
    figure, axes = subplots(len(rows), len(decomposition.shares), height=1.8)
    for row, (name, label) in zip(axes, rows):
        highest = max(shares[name][:, 0].max() for shares in decomposition.shares.values())
        for ax, shares in zip(row, decomposition.shares.values()):
            values = shares[name][:, 0].T  # (H, L)
            H, blocks = values.shape
            extent = (0.5, blocks + 0.5, 0.5, H + 0.5)
            image = ax.imshow(values, aspect="auto", origin="lower", cmap="Reds", vmin=0, vmax=highest, extent=extent)
            ax.set_yticks(range(1, H + 1))
            ax.set_ylabel("head")
            ax.grid(False)
            block_axis(ax, blocks)
            ax.set_xlim(0.5, blocks + 0.5)
            figure.colorbar(image, ax=ax, label=label)
    for ax, branch in zip(axes[0], decomposition.shares):
        ax.set_title(f"{branch} branch")
    return figure


def describe(decomposition: Decomposition) -> str:
    branches = list(decomposition.shares)
    first_block = (
        "; it is 0 in the first block of the vision branch, where prompts can only rescale"
        if "vision" in branches
        else ""
    )
    return (
        "An input's attention update is exactly (1 - π) a v W_O + u W_O + b_O: what it would gather from the inputs "
        "alone, scaled down by the attention mass π on the prompts, plus what it gathers from the prompts. First row: "
        "π. Second row: the length of the prompts' part relative to the lengths of both parts. Third row: the "
        f"fraction of the attention among inputs (a) that moved elsewhere, compared with plain CLIP{first_block}. Dots "
        f"are heads, over all inputs ({'; '.join(f'{branch}: {INPUTS[branch]}' for branch in branches)})."
    )


def headlines(decomposition: Decomposition) -> list[tuple[str, float]]:
    found = []
    for branch, shares in decomposition.shares.items():
        mean = {name: float(values[:, 0].mean()) for name, values in shares.items()}
        found += [
            (f"{branch}: attention mass on the prompts, mean over blocks and heads", mean["prompt_mass"]),
            (f"{branch}: prompts' share of the update's length, mean over blocks", mean["block"]),
            (f"{branch}: attention among inputs that moved, mean over blocks and heads", mean["moved"]),
            (f"{branch}: attention among inputs that moved, block 1", float(shares["moved"][0, 0].mean())),
            (f"{branch}: largest relative error of the sum of the parts", decomposition.error[branch]),
        ]
    return found


def findings(decomposition: Decomposition) -> list[Finding]:
    """Of section 3.3 and equation 12, on the tuned run."""
    if "vision" not in decomposition.shares:
        return []
    moved = 100 * float(decomposition.shares["vision"]["moved"][0, 0].mean())
    claim, quantity = "Vision: in block 1 prompts only rescale attention among the inputs", "attention that moved, %"
    return [Finding.of(claim, quantity, moved, EXACT, above=False)]


def arrays(decomposition: Decomposition) -> dict[str, np.ndarray]:
    return {
        f"{branch}_{name}": values for branch, shares in decomposition.shares.items() for name, values in shares.items()
    }


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found, findings(found))
