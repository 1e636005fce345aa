"""Attention entropy of the image branch (section 3.3.2 and appendix D, figs. 5 and 7)."""

import argparse

from torch import Tensor
from torch.special import entr

from .figures import Result, heads_grid
from promptbias.interp.cache import vision_columns
from .run import Study
from promptbias.interp.statistics import attention_means

HOW_TO_READ = (
    "Each dot is a head of the image branch: the mean entropy of its attention, in nats, over [cls] and all patches, or of "
    "[cls] alone; the line is the mean over heads, and the grey line repeats CLIP's. High entropy is attention spread "
    "widely, low entropy is attention on a few tokens."
)
OF_PROMPTS = (
    " “w/o prompt” drops the prompts and scales the rest to 1, “w prompt” keeps them. The paper expects “w/o prompt” to "
    "look like CLIP: prompts do not change the scope of attention."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def attention_entropy(A: Tensor, queries: slice, columns: slice) -> Tensor:
    """Mean over `queries` of the entropy in nats of attention among `columns`: (B, H, N, N) -> (B, H)."""
    a = A[:, :, queries, columns]
    return entr(a / a.sum(-1, keepdim=True)).sum(-1).mean(-1)


def run(study: Study, args: argparse.Namespace) -> Result:
    """Panels: CLIP; each tuned run without and, where it has prompts, with them. One figure of all queries, one of [cls]."""
    inputs = slice(0, 1 + study.plain.vision.patches)
    queries = {"all tokens": inputs, "[cls]": slice(0, 1)}
    panels = {who: [] for who in queries}
    for index, (label, model) in enumerate(study.models.items()):
        prompts = vision_columns(model)["prompts"]
        kinds = {label: inputs}
        if prompts.stop > prompts.start:
            kinds = {f"{label}, w/o prompt": inputs, f"{label}, w prompt": slice(0, prompts.stop)}
        measures = {
            (who, kind): lambda A, rows=rows, columns=columns: attention_entropy(A, rows, columns)
            for kind, columns in kinds.items()
            for who, rows in queries.items()
        }
        for (who, kind), values in attention_means(study, model, measures).items():
            panels[who].append((index, kind, values))

    numbers = {f"{kind}: {who}": values for who in queries for _, kind, values in panels[who]}
    headlines = [(f"mean attention entropy in nats, {name}", float(values.mean())) for name, values in numbers.items()]
    figures = {
        "entropy": heads_grid(panels["all tokens"], "entropy of all tokens (nats)"),
        "entropy-cls": heads_grid(panels["[cls]"], "entropy of [cls] (nats)"),
    }
    with_prompts = len(panels["[cls]"]) > len(study.models)
    return Result(HOW_TO_READ + OF_PROMPTS * with_prompts, headlines, figures, numbers)
