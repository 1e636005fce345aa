"""Where EOS looks in the text branch (section 3.3.1, fig. 4)."""

import argparse

import numpy as np
import torch
from torch import Tensor

from promptbias.model.tuned_clip import TunedCLIP

from .figures import Result, block_axis, heads_per_block, legend, subplots
from promptbias.interp.cache import Watch, end_name, tapped, text_columns
from .run import Study
from promptbias.interp.statistics import Means, groups

HOW_TO_READ = (
    "Each dot is a head of the text branch: the share of EOS' attention that goes to {kinds} and EOS itself; all add up "
    "to 1. The line is the mean over heads; all classes count alike. The paper expects tuning to move attention from SOS "
    "to the prompts and to leave that on the class name."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def eos_attention(model: TunedCLIP, batch_size: int) -> dict[str, np.ndarray]:
    """Attention mass of EOS on each named range of columns, mean over classes: name -> (L, H)."""
    means = Means()
    classes = torch.arange(len(model.text.tokens), device=model.text.tokens.device)
    for which in classes.split(batch_size):
        columns = [text_columns(model, k) for k in which.tolist()]
        eos = torch.tensor([ranges["EOS"].start for ranges in columns])

        def see(i: int, A: Tensor) -> None:
            row = A[torch.arange(len(A)), :, eos]  # (B, H, N)
            for name, mask in groups(columns, A.shape[-1]).items():
                means.add((name, i), (row * mask.to(row.device)[:, None]).sum(-1))

        with torch.no_grad(), tapped(model.text, Watch(attention=see)):
            model.text_features(which)
    return {name: np.stack([means[name, i] for i in range(len(model.text.blocks))]) for name in text_columns(model, 0)}


def panels(study: Study) -> dict[str, list[str]]:
    """Title -> names of columns. Prompts and template words share a panel, unless a model has both."""
    columns = [text_columns(model, 0) for model in study.models.values()]
    both = any(c["prompts"].start < c["prompts"].stop and c["template"].start < c["template"].stop for c in columns)
    middle = (
        {"prompts": ["prompts"], "template words": ["template"]}
        if both
        else {"prompts or template words": ["prompts", "template"]}
    )
    return {"SOS": ["SOS"], **middle, "class name": ["class"], end_name(study.models.values()): ["end"], "EOS": ["EOS"]}


def run(study: Study, args: argparse.Namespace) -> Result:
    """One panel for each kind of token, all models side by side."""
    numbers, headlines = {}, []
    shown = panels(study)
    figure, axes = subplots(2, 3, height=2.3, sharey=True)
    for index, (label, model) in enumerate(study.models.items()):
        mass = eos_attention(model, study.batch_size)
        numbers.update({f"{label}: {name}": values for name, values in mass.items()})
        for ax, (title, names) in zip(axes.flat, shown.items()):
            values = sum(mass[name] for name in names)
            heads_per_block(ax, values, index, len(study.models), index, label)
            headlines.append((f"EOS' mean attention on {title}, {label}", float(values.mean())))
    for ax, title in zip(axes.flat, shown):
        ax.set_title(title)
        block_axis(ax, len(study.plain.text.blocks))
    for ax in axes[:, 0]:
        ax.set_ylabel("share of EOS' attention")
        ax.set_ylim(-0.02, 1.02)
    if len(shown) < axes.size:
        axes[-1, -1].axis("off")
    legend(figure)
    *kinds, _ = shown
    how_to_read = HOW_TO_READ.format(kinds=", ".join(f"the {kind}" if kind[0].islower() else kind for kind in kinds))
    return Result(how_to_read + study.on_words(), headlines, {"eos-attention": figure}, numbers)
