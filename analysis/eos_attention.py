"""Where EOS attends in the text branch (section 3.3.1, fig. 4)."""

import argparse
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.attention import eos_attention
from promptbias.interp.token_layout import end_name, text_columns

from .comparison import Comparison
from .figures import Result, block_axis, legend, plot_heads, style, subplots, theme
from .findings import Finding

SPACING = 0.2  # between the dots of two models, in blocks
SAME = 5.0  # points; a share that changes by less stays


@dataclass
class EosAttention:
    """Attention mass of EOS, mean over classes.

    Attributes:
        mass: label of a model -> kind of token (as in `text_columns`) -> (L, H).
        panels: title -> the kinds of token that it adds up.
        template_note: a sentence on the models' templates, or "".
    """

    mass: dict[str, dict[str, np.ndarray]]
    panels: dict[str, list[str]]
    template_note: str

    def shown(self, label: str) -> dict[str, np.ndarray]:
        """Title -> (L, H) of a model."""
        mass = self.mass[label]
        return {title: np.sum([mass[kind] for kind in kinds], 0) for title, kinds in self.panels.items()}


def panels(comparison: Comparison) -> dict[str, list[str]]:
    """Title -> kinds of token. Prompts and template words share a panel, unless a model has both."""
    models = comparison.models.values()
    columns = [text_columns(model, 0) for model in models]
    both = any(c["prompts"].start < c["prompts"].stop and c["template"].start < c["template"].stop for c in columns)
    middle = (
        {"prompts": ["prompts"], "template words": ["template"]}
        if both
        else {"prompts or template words": ["prompts", "template"]}
    )
    return {"SOS": ["SOS"], **middle, "class name": ["class"], end_name(models): ["end"], "EOS": ["EOS"]}


def compute(comparison: Comparison) -> EosAttention:
    """Attention of EOS in every model of the comparison, over all classes."""
    mass = {label: eos_attention(model, comparison.batch_size) for label, model in comparison.models.items()}
    return EosAttention(mass, panels(comparison), comparison.template_note())


@theme()
def plot(attention: EosAttention) -> dict[str, Figure]:
    """One panel for each kind of token, all models side by side."""
    figure, axes = subplots(2, 3, height=2.3, sharey=True)
    for index, label in enumerate(attention.mass):
        shift = SPACING * (index - (len(attention.mass) - 1) / 2)
        for ax, values in zip(axes.flat, attention.shown(label).values()):
            plot_heads(ax, values, style(index), shift, label)
            block_axis(ax, len(values))
    for ax, title in zip(axes.flat, attention.panels):
        ax.set_title(title)
    for ax in axes.flat[len(attention.panels) :]:
        ax.axis("off")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of EOS' attention")
        ax.set_ylim(-0.02, 1.02)
    legend(figure)
    return {"eos-attention": figure}


def describe(attention: EosAttention) -> str:
    *kinds, _ = attention.panels
    listed = ", ".join(f"the {kind}" if kind[0].islower() else kind for kind in kinds)
    return (
        f"Each dot is a head of the text branch: the share of EOS' attention that goes to {listed} and EOS itself, "
        "averaged over classes; the shares add up to 1. The line is the mean over heads. The paper expects tuning to "
        "move attention from SOS to the prompts and to leave the class name's share unchanged."
        + attention.template_note
    )


def headlines(attention: EosAttention) -> list[tuple[str, float]]:
    return [
        (f"EOS' mean attention on {title}, {label}", float(values.mean()))
        for label in attention.mass
        for title, values in attention.shown(label).items()
    ]


def findings(attention: EosAttention) -> list[Finding]:
    """Of section 3.3.1, on the tuned run, where it has prompts in text. Means over blocks and heads, in points."""
    plain, tuned = (
        {kind: 100 * float(values.mean()) for kind, values in mass.items()}
        for mass in list(attention.mass.values())[:2]
    )
    if not tuned["prompts"]:
        return []
    words = plain["prompts"] + plain["template"]
    most, moved = "share of SOS minus the largest other one, points", "change of the share of SOS, points"
    more = "their share minus that of the template's words before, points"
    stays = "absolute change of its share, points"
    return [
        Finding.of(
            "EOS attends mostly to SOS before tuning",
            most,
            plain["SOS"] - max(words, plain["class"], plain["end"], plain["EOS"]),
            0,
        ),
        Finding.of("Tuning moves EOS' attention away from SOS", moved, tuned["SOS"] - plain["SOS"], 0, above=False),
        Finding.of("EOS attends to the prompts instead", more, tuned["prompts"] + tuned["template"] - words, 0),
        Finding.of(
            "EOS' attention on the class name stays", stays, abs(tuned["class"] - plain["class"]), SAME, above=False
        ),
    ]


def arrays(attention: EosAttention) -> dict[str, np.ndarray]:
    return {f"{label}: {kind}": values for label, mass in attention.mass.items() for kind, values in mass.items()}


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found, findings(found))
