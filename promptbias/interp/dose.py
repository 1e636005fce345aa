"""Dose-response: the tuned model with less, or more, of what was tuned.

A dose α scales everything that a method does: a changed parameter is θ + α (θ' - θ), a changed activation is
x + α (x' - x), so that biases become α b; and with prompts an input gathers a v + α ((1 - π) a v + u - a v) in each
block and head (see `decomposition`). α = 1 is the tuned model. α = 0 is the base CLIP; but where prompts stand in the
place of words, these words are missing. Prompts are never scaled themselves, only what inputs gather because of them.

Shapes: I images, A doses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from promptbias.model.adapter import Adapter
from promptbias.model.tuned_clip import TunedCLIP

from .accuracy import LabelledImages, margins
from .branches import Branch, branches_of
from .decomposition import AttentionParts

DOSES = tuple(step / 4 for step in range(9))
SCALED = ("vision", "text", "both")  # the branches that get a dose; the other one is intact


class DoseOutcomes(NamedTuple):
    """What each dose makes of each image, (len(SCALED), A, I) each.

    Attributes:
        correct: bool.
        margin: logit of the image's class minus the largest of the others.
    """

    correct: Tensor
    margin: Tensor


class ScaledAdapter(Adapter):
    """An adapter of which so much is done as `dose` says. Prompts are put in their places, whatever the dose."""

    def __init__(self, adapter: Adapter, dose: float) -> None:
        super().__init__()
        self.adapter, self.dose = adapter, dose
        self.attaches_to, self.prompts_at = adapter.attaches_to, adapter.prompts_at
        self.prompt_depth = adapter.prompt_depth

    def on_embeddings(self, x: Tensor) -> Tensor:
        return self.adapter.on_embeddings(x)

    def pre_block(self, i: int, x: Tensor) -> Tensor:
        return self.adapter.pre_block(i, x)

    def post_block(self, i: int, x: Tensor) -> Tensor:
        return x.lerp(self.adapter.post_block(i, x), self.dose)

    def on_activation(self, point: str, i: int, x: Tensor, source: Tensor | None) -> Tensor:
        return x.lerp(self.adapter.on_activation(point, i, x, source), self.dose)

    def parameter(self, name: str, i: int, frozen: Tensor) -> Tensor:
        return frozen.lerp(self.adapter.parameter(name, i, frozen), self.dose)

    def live_rows(self, i: int) -> slice:
        return self.adapter.live_rows(i)


def scaled_features(branch: Branch, batch: Tensor, dose: float) -> Tensor:
    """Unit vectors (B, joint width) of a batch at a dose."""

    def on_parts(i: int, parts: AttentionParts) -> Tensor:
        return (parts.a @ parts.v).lerp(parts.full, dose)

    return branch.features(batch, on_parts if branch.has_prompts else None, ScaledAdapter(branch.adapter, dose))


def dose_outcomes(model: TunedCLIP, batches: LabelledImages, doses: Sequence[float] = DOSES) -> DoseOutcomes:
    """Outcomes of all doses in one branch and in both, over batches of images."""
    vision, text = branches_of(model)
    every = list(text.classes())
    texts = torch.stack([torch.cat([scaled_features(text, which, dose) for which in every]) for dose in doses])
    intact, found = torch.cat([text.features(which) for which in every]), []
    for image, label in batches:
        images = torch.stack([scaled_features(vision, image, dose) for dose in doses])
        logits = torch.stack(
            [images @ intact.T, vision.features(image) @ texts.transpose(1, 2), images @ texts.transpose(1, 2)]
        )
        found.append(margins(model.logit_scale * logits, label).cpu())
    margin = torch.cat(found, -1)
    return DoseOutcomes(margin > 0, margin)
