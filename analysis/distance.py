"""Attention distance of the image branch (section 3.3.2, fig. 5)."""

import argparse

import torch
from torch import Tensor

from .figures import Result, heads_grid
from promptbias.interp.cache import vision_columns
from .run import Study
from promptbias.interp.statistics import attention_means

HOW_TO_READ = (
    "Each dot is a head of the image branch: the mean distance, in pixels, between a patch and the patches that it attends "
    "to, weighted by attention; the line is the mean over heads; the grey line repeats CLIP's. A head that looks only at "
    "itself is at 0, one that looks at all patches alike is at the dashed line, and one above it prefers what is far away."
)
OF_PROMPTS = (
    " “w/o prompt” leaves the attention on prompts out, “w prompt” lets it count as distance 0. The paper expects “w/o "
    "prompt” to look like CLIP: prompts do not change how features are gathered."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def pixel_distances(side: int, patch: float) -> Tensor:
    """Distances in pixels between the centres of side² patches in a square grid, row by row: (side², side²)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centres = patch * torch.stack([y, x], -1).reshape(-1, 2).float()
    return torch.cdist(centres, centres)


def attention_distance(A: Tensor, distances: Tensor, prompts: slice | None = None) -> Tensor:
    """Mean over query patches of Σ a d / Σ a: (B, H, N, N) -> (B, H), in pixels.

    Args:
        distances: (M, M) between patches, which stand in columns 1 to M.
        prompts: columns whose attention counts in the denominator too.
    """
    patches = slice(1, 1 + len(distances))
    rows = A[:, :, patches]
    total = rows[..., patches].sum(-1)
    if prompts is not None:
        total = total + rows[..., prompts].sum(-1)
    return ((rows[..., patches] * distances).sum(-1) / total).mean(-1)


def run(study: Study, args: argparse.Namespace) -> Result:
    """Panels: CLIP; each tuned run without and, where it has prompts, with them."""
    visual = study.plain.vision.visual
    side = int(study.plain.vision.patches**0.5)
    distances = pixel_distances(side, visual.input_resolution / side).to(study.device)

    panels = []
    for index, (label, model) in enumerate(study.models.items()):
        prompts = vision_columns(model)["prompts"]
        measures = {label: lambda A: attention_distance(A, distances)}
        if prompts.stop > prompts.start:
            measures = {
                f"{label}, w/o prompt": lambda A: attention_distance(A, distances),
                f"{label}, w prompt": lambda A, p=prompts: attention_distance(A, distances, p),
            }
        for name, values in attention_means(study, model, measures).items():
            panels.append((index, name, values))
    headlines = [(f"mean attention distance in pixels, {name}", float(values.mean())) for _, name, values in panels]
    uniform = float(distances.mean())
    headlines.append(("the same of uniform attention", uniform))
    figure = heads_grid(panels, "attention distance (pixels)", (uniform, "uniform attention"))
    how_to_read = HOW_TO_READ + OF_PROMPTS * (len(panels) > len(study.models))
    return Result(how_to_read, headlines, {"distance": figure}, {name: values for _, name, values in panels})
