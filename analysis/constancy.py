"""How constant is what the prompts contribute?

A bias adds the same vector to every token of every image. Prompts add u (see `decompose`), which depends on the
token that asks. For each block, |E u|^2 / E |u|^2 over tokens and images is 1 if u is a bias. If nothing of it is
constant, so that n tokens have u that are independent and of mean 0, it is 1 / n.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from promptbias.model.encoder import join_heads

from . import figures
from .decompose import READ_LABEL, READ_LOOK, Branch, Parts, Statistics, branches_with_prompts
from .run import Study


class PromptTerm(Statistics):
    """Streams the mean of u and the mean of |u W_O|^2 over the rows of each set.

    Attributes:
        sum: (L, S, D), of u with its heads side by side, before W_O (which is linear).
        square: (L, S), of |u W_O|^2.
    """

    def __init__(self, branch: Branch) -> None:
        super().__init__(branch)
        self.sum = [0.0] * len(branch.tower.blocks)
        self.square = [0.0] * len(branch.tower.blocks)

    def update(self, i: int, parts: Parts) -> Tensor:
        u = join_heads(parts.u)  # (B, n, D)
        self.sum[i] = self.sum[i] + torch.einsum("sbn,bnc->sc", self.sets, u).double()
        squares = self.project(i, u).square().sum(-1)  # (B, n)
        self.square[i] = self.square[i] + torch.einsum("sbn,bn->s", self.sets, squares).double()
        return parts.whole

    def project(self, i: int, gathered: Tensor) -> Tensor:
        """(..., D) before W_O of block i -> after it, without b_O."""
        return gathered @ self.branch.tower.blocks[i].attn.out_proj.weight.to(gathered).T

    def gathered(self) -> Tensor:
        """E u over the first set, before W_O, heads side by side: (L, D), float32."""
        return torch.stack([total[0] / self.count[0] for total in self.sum]).float()

    def bias(self) -> Tensor:
        """m = E u W_O over the first set: (L, D), float32."""
        return torch.stack([self.project(i, m) for i, m in enumerate(self.gathered().double())]).float()

    def squares(self) -> tuple[Tensor, Tensor]:
        """|E u|^2 and E |u|^2, after W_O: (L, S) each, float64."""
        means = [self.project(i, total / self.count[:, None]) for i, total in enumerate(self.sum)]
        return torch.stack([m.square().sum(-1) for m in means]), torch.stack(self.square) / self.count

    def constancy(self) -> Tensor:
        """|E u|^2 / E |u|^2, (L, S); NaN where u is zero throughout."""
        of_mean, mean = self.squares()
        return of_mean / mean


LABELS = {"constancy": "constancy\n|E u|² / E |u|²", "length": "root mean square\nlength of u"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(study: Study, args: argparse.Namespace) -> figures.Result:
    """Constancy of every block, over all test images and all classes.

    Raises:
        UserError: the tuned run has no prompts.
    """
    result = figures.Result(
        "u is what a token gathers from the prompts. |E u|² / E |u|² is 1 where every token of every image gathers "
        "the same from them, as from a bias, and 1/n where n tokens have nothing in common{floors}. The second curve asks "
        "only the row that is read at the end: [cls] over images, EOS over classes. Below, how long u is: where it is "
        "short, its constancy matters little; the mean that is weighted by E |u|² takes that into account."
    )
    branches = branches_with_prompts(study)
    counts = []
    figure, axes = figures.subplots(2, len(branches), height=1.9)
    for column, branch in zip(axes.T, branches):
        term = PromptTerm(branch).stream(branch.batches(study))
        of_mean, mean = term.squares()
        shown = {"constancy": of_mean / mean, "length": mean.sqrt()}
        for ax, (name, label) in zip(column, LABELS.items()):
            values = shown[name].cpu().numpy()  # (L, S)
            result.numbers[f"{branch.name}_{name}"] = values
            x = np.arange(1, len(values) + 1)
            ax.plot(x, values[:, 0], label="all inputs", **figures.look(1))
            ax.plot(x, values[:, 1], label=READ_LABEL, **READ_LOOK)
            ax.set_ylim(0, 1.03 if name == "constancy" else None)
            ax.set_ylabel(label)
            figures.block_axis(ax, len(values))
        column[0].set_title(f"{branch.name} branch")
        constancy, weighted = shown["constancy"], of_mean.sum(0) / mean.sum(0)
        counts += [f"{branch.name}: {int(term.count[0])} inputs, of which {int(term.count[1])} {branch.read}"]
        for at, rows in enumerate(("all inputs", branch.read)):
            result.headlines += [
                (f"{branch.name}: constancy over {rows}, mean over blocks", float(constancy[:, at].mean())),
                (f"{branch.name}: constancy over {rows}, blocks weighted by E |u|²", float(weighted[at])),
                (f"{branch.name}: constancy over {rows}, lowest of a block", float(constancy[:, at].min())),
                (f"{branch.name}: constancy over {rows}, highest of a block", float(constancy[:, at].max())),
            ]
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    result.how_to_read = result.how_to_read.format(floors=f" ({'; '.join(counts)})")
    result.figures["constancy"] = figure
    return result
