"""|b| of trained biases, per block, site and branch."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.bias_norms import bias_norms
from promptbias.model.biases import SiteBiases
from promptbias.utils.errors import UserError

from .comparison import Comparison
from .figures import STYLES, Result, block_axis, legend, subplots, theme

ROWS = ("|b|", "|b| relative to\nCLIP's own vector")


@dataclass
class BiasNorms:
    """Of every run of the comparison that trains biases.

    Attributes:
        norms: label -> branch -> site -> (L, 2), |b| and |b| relative to CLIP's own vector in that place.
    """

    norms: dict[str, dict[str, dict[str, np.ndarray]]]


def compute(comparison: Comparison) -> BiasNorms:
    """Norms of all trained biases.

    Raises:
        UserError: none of the runs trains any in the blocks.
    """
    norms = {}
    for label, model in comparison.models.items():
        towers = (("vision", model.adapters.vision, model.vision), ("text", model.adapters.text, model.text))
        found = {
            branch: bias_norms(adapter, tower) for branch, adapter, tower in towers if isinstance(adapter, SiteBiases)
        }
        if any(found.values()):
            norms[label] = {branch: of_site for branch, of_site in found.items() if of_site}
    if not norms:
        raise UserError(f'"{comparison.label}" trains no biases in the blocks; give a run of BiasTuning as --model-dir')
    return BiasNorms(norms)


@theme()
def plot(found: BiasNorms) -> dict[str, Figure]:
    """|b| in the upper row, relative to CLIP's own in the lower; a column for each branch, a curve for each site."""
    figure, axes = subplots(len(ROWS), 2, height=1.9)
    sites = dict.fromkeys(
        (label, site) for label, of in found.norms.items() for by_site in of.values() for site in by_site
    )
    for index, (label, site) in enumerate(sites):
        name = f"{label}: {site}" if len(found.norms) > 1 else site
        for column, branch in zip(axes.T, ("vision", "text")):
            norms = found.norms[label].get(branch, {}).get(site)
            for ax, values in zip(column, () if norms is None else norms.T):
                ax.plot(range(1, 1 + len(values)), values, label=name, **STYLES[(index + 1) % len(STYLES)])
                block_axis(ax, len(values))
    for column, branch in zip(axes.T, ("vision", "text")):
        column[0].set_title(f"{branch} branch")
    for row, ylabel in zip(axes, ROWS):
        row[0].set_ylabel(ylabel)
    for ax in axes.flat:
        ax.set_ylim(0)
    legend(figure)
    return {"bias-norms": figure}


def describe(found: BiasNorms) -> str:
    return (
        "The Euclidean length of every trained bias (of LayerNorm's gain: of its change), block by block, and the same "
        "relative to the vector that CLIP itself has in that place. Biases that are long late in a branch act on few "
        "layers after them; those that are long early change what all later layers see. With more than one site: Ben "
        "Zaken et al. (BitFit, 2022) found the biases of the queries and of the MLP's hidden layer to change most in "
        "BERT; a bias on the keys can do nothing and stays 0."
    )


def headlines(found: BiasNorms) -> list[tuple[str, float]]:
    numbers: list[tuple[str, float]] = []
    for label, of_branch in found.norms.items():
        for branch, of_site in of_branch.items():
            for site, norms in of_site.items():
                what = f"{label}, {branch}, {site}"
                numbers += [(f"{what}: |b|, mean over blocks", float(np.nanmean(norms[:, 0])))]
                numbers += [(f"{what}: |b| in block {i}", float(b)) for i, b in enumerate(norms[:, 0], 1) if b == b]
                numbers += [(f"{what}: |b| relative to CLIP's own, mean over blocks", float(np.nanmean(norms[:, 1])))]
    return numbers


def arrays(found: BiasNorms) -> dict[str, np.ndarray]:
    return {
        f"{label}: {branch}, {site}": norms
        for label, of_branch in found.norms.items()
        for branch, of_site in of_branch.items()
        for site, norms in of_site.items()
    }


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found)
