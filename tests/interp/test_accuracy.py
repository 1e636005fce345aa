"""Which images models get right."""

import torch
from prompted_clips import CLASSES

from promptbias.interp.accuracy import model_outcomes


def test_outcomes_are_those_of_all_images_at_once(tuned, images):
    model, labels = tuned(), torch.arange(len(images)) % len(CLASSES)
    found = model_outcomes({"model": model}, zip(images.split(4), labels.split(4)))
    assert list(found) == ["model"] and found["model"].tolist() == (model.logits(images).argmax(-1) == labels).tolist()
