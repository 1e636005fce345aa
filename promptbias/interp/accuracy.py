"""Which images models get right."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from promptbias.model.tuned_clip import TunedCLIP

LabelledImages = Iterable[tuple[Tensor, Tensor]]  # batches of images (B, 3, S, S) and labels (B,)


@torch.no_grad()
def model_outcomes(models: dict[str, TunedCLIP], batches: LabelledImages) -> dict[str, np.ndarray]:
    """Whether each model gets each of I images right: (I,), bool."""
    found: dict[str, list[Tensor]] = {name: [] for name in models}
    for image, label in batches:
        for name, model in models.items():
            found[name].append((model.logits(image).argmax(-1) == label).cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def margins(logits: Tensor, label: Tensor) -> Tensor:
    """Logit of each image's class minus the largest of the others, (..., B, K) and (B,) -> (..., B)."""
    own = torch.nn.functional.one_hot(label, logits.shape[-1]).bool()
    others = logits.masked_fill(own, -torch.inf)
    return logits.masked_fill(~own, -torch.inf).amax(-1) - others.amax(-1)
