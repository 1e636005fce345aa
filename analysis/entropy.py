"""Attention entropy of the vision branch (section 3.3.2 and appendix D, figs. 5 and 7)."""

import argparse
import functools
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.attention import attention_entropy, attention_means
from promptbias.interp.token_layout import vision_columns

from .comparison import Comparison
from .figures import HeadPanel, Result, heads_grid, relative_departure, theme
from .findings import SAME, Finding


@dataclass
class Entropy:
    """Mean attention entropy in nats of every block and head.

    Panels (L, H): plain CLIP; each tuned run without and, where it has prompts, with their columns.

    Attributes:
        all_tokens: mean over the queries [cls] and patches.
        cls: of the query [cls] alone.
        with_prompts: whether any run has vision prompts.
    """

    all_tokens: list[HeadPanel]
    cls: list[HeadPanel]
    with_prompts: bool

    def panels(self) -> dict[str, list[HeadPanel]]:
        """The two lists, by the name of their queries."""
        return {"all tokens": self.all_tokens, "[cls]": self.cls}


def compute(comparison: Comparison) -> Entropy:
    """Attention entropy of every model of the comparison, over its test images."""
    inputs = slice(0, 1 + comparison.plain.vision.patches)
    queries = {"all tokens": inputs, "[cls]": slice(0, 1)}
    panels: dict[str, list[HeadPanel]] = {name: [] for name in queries}
    for index, (label, model) in enumerate(comparison.models.items()):
        keys = {label: inputs}
        if model.adapters.vision.prompt_count:
            everything = slice(0, vision_columns(model)["prompts"].stop)
            keys = {f"{label}, w/o prompt": inputs, f"{label}, w prompt": everything}
        measures = {
            (name, title): functools.partial(attention_entropy, queries=rows, keys=columns)
            for title, columns in keys.items()
            for name, rows in queries.items()
        }
        for (name, title), values in attention_means(model, comparison.images("entropy"), measures).items():
            panels[name].append(HeadPanel(title, values, index))
    with_prompts = any(model.adapters.vision.prompt_count for model in comparison.models.values())
    return Entropy(panels["all tokens"], panels["[cls]"], with_prompts)


@theme()
def plot(entropy: Entropy) -> dict[str, Figure]:
    return {
        "entropy": heads_grid(entropy.all_tokens, "entropy of all tokens (nats)"),
        "entropy-cls": heads_grid(entropy.cls, "entropy of [cls] (nats)"),
    }


def describe(entropy: Entropy) -> str:
    text = (
        "Each dot is a head of the vision branch: the entropy of its attention in nats, averaged over the test images "
        "and over [cls] and all patches as queries, or for [cls] alone. The line is the mean over heads; the grey "
        "line repeats CLIP's. High entropy means attention spread over many tokens, low entropy attention on a few."
    )
    if entropy.with_prompts:
        text += (
            " “w/o prompt” drops the prompts' columns and renormalises the rest, “w prompt” keeps them. The paper "
            "expects “w/o prompt” to match CLIP: prompts do not change the scope of attention. Look at each block: "
            "a mean over blocks hides departures that cancel out."
        )
    return text


def arrays(entropy: Entropy) -> dict[str, np.ndarray]:
    return {f"{panel.title}: {name}": panel.values for name, some in entropy.panels().items() for panel in some}


def headlines(entropy: Entropy) -> list[tuple[str, float]]:
    means = [
        (f"mean attention entropy in nats, {name}", float(values.mean())) for name, values in arrays(entropy).items()
    ]
    departures = [
        (f"largest departure of a block from {some[0].title} in nats, {panel.title}: {name}", departure(some[0], panel))
        for name, some in entropy.panels().items()
        for panel in some[1:]
    ]
    return means + departures


def findings(entropy: Entropy) -> list[Finding]:
    """Of section 3.3.2 and appendix D, on the tuned run without its prompts' columns."""
    quantity = "difference from CLIP's without the prompts' columns, mean over blocks, % of it"
    return [
        Finding.of(f"The attention entropy of {name} stays", quantity, relative_departure(*some[:2]), SAME, above=False)
        for name, some in entropy.panels().items()
    ]


def departure(plain: HeadPanel, panel: HeadPanel) -> float:
    """The largest difference of a block's mean over heads."""
    return float(abs(panel.values.mean(1) - plain.values.mean(1)).max())


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found, findings(found))
