"""Accuracies of several models on the same images, and how far they can be trusted."""

from collections.abc import Iterable

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor

from promptbias.model.tuned_clip import TunedCLIP

LabelledImages = Iterable[tuple[Tensor, Tensor]]  # batches of images (B, 3, S, S) and labels (B,)


@torch.no_grad()
def model_accuracies(models: dict[str, TunedCLIP], batches: LabelledImages) -> dict[str, float]:
    """Fraction of the images that each model gets right."""
    hits, count = dict.fromkeys(models, 0), 0
    for image, label in batches:
        for name, model in models.items():
            hits[name] += int((model.logits(image).argmax(-1) == label).sum())
        count += len(label)
    return {name: n / count for name, n in hits.items()}


def wilson_errors(accuracy: np.ndarray, count: int) -> np.ndarray:
    """How far the ends of the 95 % Wilson interval lie below and above accuracies on `count` images: (2, ...)."""
    accuracy = np.asarray(accuracy)
    tests = [binomtest(round(float(share) * count), count) for share in accuracy.flat]
    low, high = np.array([test.proportion_ci(method="wilson") for test in tests]).T.reshape(2, *accuracy.shape)
    return np.stack([accuracy - low, high - accuracy]).clip(0)
