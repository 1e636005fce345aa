"""Attention distance of the vision branch (section 3.3.2, fig. 5)."""

import argparse
import functools
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from promptbias.interp.attention import attention_distance, attention_means, pixel_distances
from promptbias.interp.token_layout import vision_columns

from .comparison import Comparison
from .figures import HeadPanel, Result, heads_grid, relative_departure, theme
from .findings import SAME, Finding

NEARLY_UNIFORM = 0.1  # relative to the distance of uniform attention


@dataclass
class Distance:
    """Mean attention distance in pixels of every block and head.

    Attributes:
        panels: (L, H) each: plain CLIP; each tuned run without and, where it has prompts, with them.
        uniform: the distance of uniform attention over the patches.
        with_prompts: whether any run has vision prompts.
    """

    panels: list[HeadPanel]
    uniform: float
    with_prompts: bool

    @property
    def undecided(self) -> bool:
        """Whether plain CLIP is so near to uniform attention that agreement with it confirms nothing."""
        return bool(abs(self.panels[0].values.mean() / self.uniform - 1) < NEARLY_UNIFORM)


def compute(comparison: Comparison) -> Distance:
    """Attention distance of every model of the comparison, over its test images."""
    vision = comparison.plain.vision
    side = int(vision.patches**0.5)
    distances = pixel_distances(side, vision.visual.input_resolution / side).to(comparison.device)
    measure = functools.partial(attention_distance, distances=distances)
    panels = []
    for index, (label, model) in enumerate(comparison.models.items()):
        measures = {label: measure}
        if model.adapters.vision.prompt_count:
            with_prompts = functools.partial(measure, prompts=vision_columns(model)["prompts"])
            measures = {f"{label}, w/o prompt": measure, f"{label}, w prompt": with_prompts}
        means = attention_means(model, comparison.images("distance"), measures)
        panels += [HeadPanel(title, values, index) for title, values in means.items()]
    prompts = any(model.adapters.vision.prompt_count for model in comparison.models.values())
    return Distance(panels, float(distances.mean()), prompts)


@theme()
def plot(distance: Distance) -> dict[str, Figure]:
    line = (distance.uniform, "uniform attention")
    return {"distance": heads_grid(distance.panels, "attention distance (pixels)", line)}


def describe(distance: Distance) -> str:
    text = (
        "Each dot is a head of the vision branch: the distance in pixels between a patch and the patches that it "
        "attends to, weighted by attention and averaged over patches and test images. The line is the mean over "
        "heads; the grey line repeats CLIP's. A head whose patches attend only to themselves is at 0; uniform "
        "attention is at the dashed line, and a head above it prefers distant patches."
    )
    if distance.with_prompts:
        text += (
            " “w/o prompt” leaves out the attention on prompts, “w prompt” counts it as distance 0. The paper expects "
            "“w/o prompt” to match CLIP: prompts do not change how features are gathered."
        )
    if distance.undecided:
        plain = distance.panels[0].values.mean()
        text += (
            f" Here the distance cannot tell: {distance.panels[0].title} is at {plain:.1f} of {distance.uniform:.1f} "
            "pixels, nearly as if it attended to all patches alike, so that all models agree whatever they attend to."
        )
    return text


def headlines(distance: Distance) -> list[tuple[str, float]]:
    means = [
        (f"mean attention distance in pixels, {panel.title}", float(panel.values.mean())) for panel in distance.panels
    ]
    return [*means, ("the same of uniform attention", distance.uniform)]


def findings(distance: Distance) -> list[Finding]:
    """Of section 3.3.2, on the tuned run without its prompts' columns."""
    quantity = "difference from CLIP's without the prompts' columns, mean over blocks, % of it"
    cannot_tell = "CLIP is nearly as far as uniform attention, whatever it attends to" if distance.undecided else ""
    value = relative_departure(*distance.panels[:2])
    return [Finding.of("The attention distance stays", quantity, value, SAME, above=False, cannot_tell=cannot_tell)]


def arrays(distance: Distance) -> dict[str, np.ndarray]:
    return {panel.title: panel.values for panel in distance.panels}


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found, findings(found))
