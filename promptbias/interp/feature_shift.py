"""How much of what tuning does to the features is one constant vector per branch?

The mean shift δ is the mean difference of the tuned model's features from the plain CLIP's, over the few-shot training
images or over the classes. Added to plain features, which are then normalised again, it is the simplest thing that
tuning could have learned: δ in the image features adds δ·g_k to the score of class k, a bias for each class; δ in the
text features adds δ·f to the scores of all classes, which changes no prediction but for the normalisation.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from promptbias.model.tuned_clip import TunedCLIP

from .accuracy import LabelledImages

KINDS = ("plain", "mean shift", "tuned")  # of features


class Shift(NamedTuple):
    """The shift of the features (N, joint width) of N images or classes.

    Attributes:
        mean: δ, (joint width,).
        constancy: |E d|² / E |d|² of the differences d: 1 if all are the same, 1/N if they have nothing in common; NaN
            where nothing changed.
    """

    mean: Tensor
    constancy: float


def shift_of(plain: Tensor, tuned: Tensor) -> Shift:
    """The shift from plain to tuned features, unit vectors (N, joint width)."""
    difference = tuned - plain
    mean = difference.mean(0)
    return Shift(mean, float(mean.square().sum() / difference.square().sum(-1).mean()))


def kinds_of(plain: Tensor, tuned: Tensor, shift: Tensor) -> Tensor:
    """Features of all KINDS, (3, N, joint width), from unit vectors (N, joint width)."""
    return torch.stack([plain, F.normalize(plain + shift, dim=-1), tuned])


@torch.no_grad()
def shifts(plain: TunedCLIP, tuned: TunedCLIP, train: LabelledImages) -> dict[str, Shift]:
    """The shifts of the branches, "vision" over training images and "text" over the classes."""
    features = [torch.cat(parts) for parts in zip(*(both_features(plain, tuned, image) for image, _ in train))]
    return {"vision": shift_of(*features), "text": shift_of(plain.text_features(), tuned.text_features())}


@torch.no_grad()
def shift_outcomes(plain: TunedCLIP, tuned: TunedCLIP, of_branch: dict[str, Shift], batches: LabelledImages) -> Tensor:
    """Whether each of I images is right with each kind of image features and of text features: (3, 3, I), bool."""
    texts = kinds_of(plain.text_features(), tuned.text_features(), of_branch["text"].mean)
    found = []
    for image, label in batches:
        images = kinds_of(*both_features(plain, tuned, image), of_branch["vision"].mean)
        logits = images[:, None] @ texts.transpose(1, 2)
        found.append((logits.argmax(-1) == label).cpu())
    return torch.cat(found, -1)


def both_features(plain: TunedCLIP, tuned: TunedCLIP, image: Tensor) -> tuple[Tensor, Tensor]:
    return plain.image_features(image), tuned.image_features(image)
