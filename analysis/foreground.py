"""Does tuning make CLIP look at the foreground? [cls] attention and relevancy against masks of the object.

Not in the paper, whose first hypothesis it measures (section 3.3: the prompts make [cls] focus on the foreground).
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from promptbias.interp.cache import PATTERN, capture
from promptbias.interp.foreground import HALF, Agreement, agreement, patch_foreground, share_inside, shows_both
from promptbias.interp.relevancy import relevancy
from promptbias.interp.token_layout import vision_columns
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError

from .comparison import ZERO_SHOT, Comparison
from .estimates import Estimate, mean_estimates
from .figures import Result, block_axis, legend, plot_heads, style, subplots, theme, wrap
from .findings import Finding

ATTENTION, RELEVANCY, CHANGE = "[cls] attention", "relevancy", "relevancy that tuning added"
TINY = 1e-30
MEASURES = {"share": "share on the foreground", "pointing": "pointing game", "precision": "average precision"}


class Maps(NamedTuple):
    """Of one model on I images.

    Attributes:
        by_head: share of [cls] attention to patches that lies on the foreground, (I, L, H).
        scores: map -> measure -> (I,), NaN where a map is empty.
    """

    by_head: np.ndarray
    scores: dict[str, dict[str, np.ndarray]]


@dataclass
class Foreground:
    """Every model of a comparison against the masks.

    Attributes:
        area: the foreground's share of each image, which a uniform map has, (I,); NaN where an image is left out.
        patches: the fraction of foreground patches, which chance has in the other two measures, (I,); likewise.
        maps: model -> its maps.
    """

    area: np.ndarray
    patches: np.ndarray
    maps: dict[str, Maps]

    def against_clip(self, label: str, name: str, measure: str) -> Estimate:
        """How much more of a map of a tuned model lies on the foreground than of CLIP's, in points, with interval."""
        tuned, plain = (self.maps[model].scores[name][measure] for model in (label, ZERO_SHOT))
        return mean_estimates(100 * (tuned - plain)[None])[0]


def compute(comparison: Comparison) -> Foreground:
    """Maps of all models on the test images.

    Raises:
        UserError: the dataset has no masks, one of them is missing, or none shows both foreground and background.
    """
    masks, side = comparison.masks(), math.isqrt(comparison.plain.vision.patches)
    fractions: list[Tensor] = []
    heads: dict[str, list[Tensor]] = {name: [] for name in comparison.models}
    scores: dict[str, list[dict[str, Agreement]]] = {name: [] for name in comparison.models}
    for image, label in comparison.batches("foreground"):
        mask = torch.stack([next(masks) for _ in image]).to(image.device)
        foreground = patch_foreground(mask, side)
        fractions.append(foreground)
        plain = None
        for name, model in comparison.models.items():
            by_head, maps = maps_of(model, image, label)
            heads[name].append(share_inside(by_head, foreground))
            if plain is not None:
                maps[CHANGE] = (maps[RELEVANCY] - plain).clamp(min=0)
            plain = maps[RELEVANCY] if plain is None else plain
            scores[name].append({what: agreement(values, foreground) for what, values in maps.items()})
    everywhere = torch.cat(fractions).double().cpu()
    known = shows_both(everywhere)
    if not known.any():
        raise UserError("no mask of these images shows both foreground and background, so there is nothing to compare")
    return Foreground(
        torch.where(known, everywhere.mean(-1), torch.nan).numpy(),
        torch.where(known, (everywhere > HALF).double().mean(-1), torch.nan).numpy(),
        {name: Maps(torch.cat(heads[name]).double().cpu().numpy(), joined(scores[name])) for name in heads},
    )


def maps_of(model: TunedCLIP, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """[cls] attention to the patches by block and head, (B, L, H, M), and the maps (B, M), each of sum 1 or 0."""
    patches = vision_columns(model)["patches"]
    with torch.no_grad(), capture(model.vision, f"blocks.*.{PATTERN}") as cache:
        model.image_features(image)
    attention = torch.stack([A[:, :, 0, patches] for A in cache.by_block(PATTERN).values()], 1).float()
    relevant = relevancy(model, image, label).vision[:, : model.vision.patches].float()
    maps = {ATTENTION: attention.mean((1, 2)), RELEVANCY: relevant}
    return attention, {name: values / values.sum(-1, keepdim=True).clamp(min=TINY) for name, values in maps.items()}


def joined(parts: Sequence[dict[str, Agreement]]) -> dict[str, dict[str, np.ndarray]]:
    """Agreements of batches as arrays over all images."""
    return {
        name: {measure: torch.cat([getattr(part[name], measure) for part in parts]).numpy() for measure in MEASURES}
        for name in parts[0]
    }


def verdict(difference: Estimate) -> str:
    """What an interval says of the hypothesis that tuning moves a map to the foreground."""
    low, high = difference.interval or (difference, difference)
    said = "confirmed" if low > 0 else "not confirmed, the opposite holds" if high < 0 else "undecided"
    return f"{said} ({difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f})"


@theme()
def plot(found: Foreground) -> dict[str, Figure]:
    return {"foreground": plot_blocks(found), "foreground-scores": plot_scores(found)}


def plot_blocks(found: Foreground) -> Figure:
    """The share of [cls] attention on the foreground, over the blocks."""
    figure, axes = subplots(1, 1, height=2.8)
    ax = axes[0, 0]
    ax.axhline(100 * np.nanmean(found.area), color="#888888", linewidth=1, label="uniform")
    for model, (label, maps) in enumerate(found.maps.items()):
        values = 100 * np.nanmean(maps.by_head, 0)
        plot_heads(ax, values, style(model), 0.12 * (model - (len(found.maps) - 1) / 2), wrap(label))
        block_axis(ax, len(values))
    ax.set_ylabel("[cls] attention on the foreground (%)")
    legend(figure, columns=3)
    return figure


def plot_scores(found: Foreground) -> Figure:
    """A panel per measure: both maps of every model, and the change, with intervals."""
    figure, axes = subplots(1, len(MEASURES), height=2.4, sharey=True)
    names = (ATTENTION, RELEVANCY, CHANGE)
    for ax, (measure, title) in zip(axes[0], MEASURES.items()):
        chance = found.area if measure == "share" else found.patches
        ax.axvline(100 * np.nanmean(chance), color="#888888", linewidth=1, label="uniform")
        for model, (label, maps) in enumerate(found.maps.items()):
            shown = [name for name in names if name in maps.scores]
            values = mean_estimates(100 * np.array([maps.scores[name][measure] for name in shown]))
            y = -np.arange(len(shown)) - 0.15 * (model - (len(found.maps) - 1) / 2)
            line, error = style(model), np.transpose([value.whiskers for value in values])
            point = {"fmt": line["marker"], "color": line["color"], "markersize": 4}
            ax.errorbar(values, y, xerr=error, elinewidth=1, label=wrap(label), **point)
        ax.set_xlabel(f"{title} (%)")
    axes[0, 0].set_yticks(-np.arange(len(names)), [wrap(name, 18) for name in names])
    axes[0, 0].set_ylim(0.5 - len(names), 0.5)
    legend(figure, columns=3)
    return figure


def describe(found: Foreground) -> str:
    verdicts = [
        f"{verdict(found.against_clip(label, name, 'share'))} for {name} in “{label}”"
        for label in list(found.maps)[1:]
        for name in (ATTENTION, RELEVANCY)
    ]
    missing = int(np.isnan(found.area).sum())
    left_out = (
        f" Left out: {missing} images whose masks have no patch of foreground, or none of background."
        if missing
        else ""
    )
    return (
        "How much of what CLIP looks at lies on the object, by the dataset's masks, which are resized and cropped "
        "exactly as the images. Above: the share of [cls] attention to patches that falls on the foreground, over the "
        "blocks; a dot is a head, a line the mean of heads, grey a uniform map. Below: the share, the pointing game "
        "(how often the maximum is on the foreground; a patch counts if more than half of it is) and average precision "
        "of [cls] attention (mean of blocks and heads), of relevancy for the true class, and of the relevancy that "
        f"tuning added, with 95 % bootstrap intervals over {len(found.area) - missing} test images. The paper's first "
        "hypothesis is that prompts make [cls] focus on the foreground. By the share on the foreground this is "
        f"{'; '.join(verdicts)}. The seed of training is not in these intervals. A uniform map has a share of "
        f"{100 * np.nanmean(found.area):.1f} % on the foreground.{left_out}"
    )


def headlines(found: Foreground) -> list[tuple[str, float]]:
    numbers: list[tuple[str, float]] = [
        ("uniform map: share on the foreground, %", float(100 * np.nanmean(found.area)))
    ]
    for label, maps in found.maps.items():
        for name, scores in maps.scores.items():
            values = mean_estimates(100 * np.array([scores[measure] for measure in MEASURES]))
            numbers += [(f"{label}, {name}: {title}, %", value) for title, value in zip(MEASURES.values(), values)]
            if label != ZERO_SHOT and name != CHANGE:
                numbers += [
                    (f"{label} minus {ZERO_SHOT}, {name}: {title}, points", found.against_clip(label, name, measure))
                    for measure, title in MEASURES.items()
                ]
    return numbers


def findings(found: Foreground) -> list[Finding]:
    """Of section 3.3, on the tuned run."""
    label = list(found.maps)[1]
    return [
        Finding.of(
            f"Tuning moves {name} to the foreground",
            "change of its share on the object, points",
            found.against_clip(label, name, "share"),
            0,
        )
        for name in (ATTENTION, RELEVANCY)
    ]


def arrays(found: Foreground) -> dict[str, np.ndarray]:
    numbers = {"area": found.area, "foreground patches": found.patches}
    for label, maps in found.maps.items():
        numbers[f"{label}, [cls] attention by image, block and head"] = maps.by_head
        for name, scores in maps.scores.items():
            numbers.update({f"{label}, {name}, {measure}": values for measure, values in scores.items()})
    return numbers


def run(comparison: Comparison, args: argparse.Namespace) -> Result:
    found = compute(comparison)
    return Result(describe(found), headlines(found), plot(found), arrays(found), found, findings(found))
