"""Accuracies of models, and their intervals."""

import numpy as np
import torch
from prompted_clips import CLASSES

from promptbias.interp.accuracy import model_accuracies, wilson_errors


def test_intervals_are_wilsons():
    low, high = wilson_errors(np.array([0.0, 0.5, 1.0]), 10)
    assert np.allclose(low, [0, 0.5 - 0.2366, 0.2775], atol=1e-3)
    assert np.allclose(high, [0.2775, 0.5 - 0.2366, 0], atol=1e-3)
    assert wilson_errors(np.full((2, 3), 0.3), 10).shape == (2, 2, 3)


def test_model_accuracies_are_plain_ones(tuned, images):
    model, labels = tuned(), torch.arange(len(images)) % len(CLASSES)
    found = model_accuracies({"model": model}, zip(images.split(4), labels.split(4)))
    assert found == {"model": float((model.logits(images).argmax(-1) == labels).double().mean())}
