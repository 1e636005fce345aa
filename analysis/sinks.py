"""Attention sinks: which tokens receive attention, how much they have to give, and how many directions prompts add."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.branches import branches_of
from promptbias.interp.sinks import LENGTH, RECEIVED, UpdateRank, sinks
from promptbias.interp.token_layout import end_name

from .comparison import ZERO_SHOT, Comparison
from .figures import STYLES, Result, block_axis, legend, plot_heads, style, subplots, theme

BRANCHES = ("vision", "text")
NAMES = {"cls": "[cls]", "template": "template words", "class": "class name"}
QUANTITIES = {RECEIVED: "attention received\nby one token", LENGTH: "length of its value"}


@dataclass
class Sinks:
    """What tokens receive and give in plain CLIP and in the tuned run.

    Attributes:
        measured: label -> branch -> RECEIVED or LENGTH -> kind of token -> (L,), as `promptbias.interp.sinks.sinks`.
        ranks: branch with prompts -> effective rank of their update in the tuned run, (L, H).
        prompts: branch with prompts -> how many in a block.
    """

    measured: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]]
    ranks: dict[str, np.ndarray]
    prompts: dict[str, int]


def compute(comparison: Comparison) -> Sinks:
    """Means over the test images, and over all classes."""
    found = Sinks({}, {}, {})
    names = {**NAMES, "end": end_name(comparison.models.values())}
    for label in (ZERO_SHOT, comparison.label):
        model = comparison.models[label]
        found.measured[label] = {}
        for branch in branches_of(model):
            of_kind = sinks(model, branch, branch.inputs(comparison.batches("sinks")))
            found.measured[label][branch.name] = {
                name: {names.get(kind, kind): values for kind, values in measured.items()}
                for name, measured in of_kind.items()
            }
    for branch in branches_of(comparison.tuned):
        if branch.has_prompts:
            batches = branch.inputs(comparison.batches("rank of the update"))
            found.ranks[branch.name] = UpdateRank(branch).stream(batches).effective_rank()
            found.prompts[branch.name] = branch.adapter.prompt_count
    return found


def plot(found: Sinks) -> dict[str, Figure]:
    figures = {"sinks": plot_tokens(found)}
    return {**figures, "sinks-rank": plot_ranks(found)} if found.ranks else figures


@theme()
def plot_tokens(found: Sinks) -> Figure:
    """A column for each branch: attention received in the upper row, length of the values in the lower."""
    figure, axes = subplots(2, 2, height=2.2)
    plain, tuned = found.measured.values()
    for column, branch in zip(axes.T, BRANCHES):
        kinds = list(dict.fromkeys([*tuned[branch][RECEIVED], *plain[branch][RECEIVED]]))
        for ax, (name, ylabel) in zip(column, QUANTITIES.items()):
            for index, kind in enumerate(kinds):
                line = {key: STYLES[index % len(STYLES)][key] for key in ("color", "marker")}
                of_models = [(of[branch][name].get(kind), dots) for of, dots in ((tuned, "-"), (plain, ":"))]
                drawn = [(values, dots) for values, dots in of_models if values is not None]
                for at, (values, dots) in enumerate(drawn):
                    x = range(1, 1 + len(values))
                    ax.plot(x, values, linestyle=dots, label="" if at else kind, **line)
                    block_axis(ax, len(values))
            ax.set_ylim(0)
            ax.set_ylabel(ylabel)
        column[0].set_title(f"{branch} branch")
        column[1].legend(fontsize=6.5, loc="lower center", ncols=3, columnspacing=1, handlelength=1.6)
    return figure


@theme()
def plot_ranks(found: Sinks) -> Figure:
    """A panel for each branch with prompts: a dot for each head, and a line at the number of prompts."""
    figure, axes = subplots(1, len(found.ranks), height=2.3)
    for ax, (branch, ranks) in zip(axes[0], found.ranks.items()):
        ax.axhline(found.prompts[branch], color="0.3", linewidth=0.7, linestyle=(0, (4, 3)), label="prompts in a block")
        plot_heads(ax, ranks, style(1), label="effective rank, mean over heads")
        block_axis(ax, len(ranks))
        ax.set_ylim(0)
        ax.set_title(f"{branch} branch")
    axes[0, 0].set_ylabel("effective rank of u")
    legend(figure)
    return figure


def describe(found: Sinks) -> str:
    text = (
        "Upper row: the share of a query's attention that one token of each kind receives, mean over heads, samples "
        "and the queries that can attend to it (all tokens but prompts; in text not SOS, which has no choice). Lower "
        "row: the length of the value that it gives, mean over heads. Solid: the tuned run; dotted: "
        f"{ZERO_SHOT}. A sink receives much and gives little. Xiao et al. (Efficient Streaming Language Models with "
        "Attention Sinks, 2024) found the first tokens of a text to be sinks, here SOS. "
        "Darcet et al. (Vision Transformers Need Registers, 2024) found that some patches are used as such, and that "
        "additional tokens relieve them: if prompts act as registers, they receive attention, and the patch that "
        "receives most receives less than before."
    )
    if found.ranks:
        text += (
            " Rank: over how many directions what a head gathers from the prompts, u, spreads over tokens and samples "
            "(exp of the entropy of the eigenvalues of E u uᵀ). With one prompt in a block it is exactly 1: the prompt "
            "adds one vector, and attention decides only how much of it."
        )
    return text


def headlines(found: Sinks) -> list[tuple[str, float]]:
    numbers = [
        (f"{name}, {branch}, {kind}, {label}: mean over blocks", float(values.mean()))
        for label, of_run in found.measured.items()
        for branch, measured in of_run.items()
        for name, of_kind in measured.items()
        for kind, values in of_kind.items()
    ]
    for branch, ranks in found.ranks.items():
        numbers.append((f"effective rank of u, {branch}, mean over blocks and heads", float(np.nanmean(ranks))))
        numbers.append((f"effective rank of u, {branch}, highest of a head", float(np.nanmax(ranks))))
        numbers.append((f"prompts in a block, {branch}", found.prompts[branch]))
    return numbers


def arrays(found: Sinks) -> dict[str, np.ndarray]:
    tokens = {
        f"{label}: {branch}, {name}, {kind}": values
        for label, of_run in found.measured.items()
        for branch, measured in of_run.items()
        for name, of_kind in measured.items()
        for kind, values in of_kind.items()
    }
    return {**tokens, **{f"{branch}: effective rank": ranks for branch, ranks in found.ranks.items()}}


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found)
