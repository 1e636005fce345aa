"""Keeping a tuned model near the CLIP that it started from: a term of the loss, for any method.

    image    1 − cos between the tuned and the frozen features, mean over images
    text     the same, mean over classes
    logits   KL(frozen ‖ tuned) between the predictions, mean over images

The sum of those that `consistency_of` names, times `consistency`, is added to the cross-entropy.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from promptbias.utils.errors import UserError

from .method import MethodConfig

if TYPE_CHECKING:
    from .tuned_clip import TunedCLIP

TERMS = ("image", "text", "logits")
Features = tuple[Tensor, Tensor]  # of images and of texts


def check_consistency(method: MethodConfig) -> None:
    """Refuse options that name no consistency term.

    Raises:
        UserError: a negative weight, a weight without terms, or unknown terms.
    """
    weight, terms = method.consistency, method.consistency_of
    if weight < 0:
        raise UserError(f"{method.key('consistency')} is {weight}, but must be at least 0 (off)")
    if set(terms) - set(TERMS) or (weight and not terms):
        raise UserError(f"{method.key('consistency_of')} is {list(terms)}, but must be some of {', '.join(TERMS)}")


def divergence(model: "TunedCLIP", image: Tensor, features: Tensor, texts: Tensor) -> Tensor:
    """The sum of the terms that the model's method names. What no term needs is not computed.

    Args:
        image: (B, 3, S, S).
        features, texts: the tuned model's unit features of these images (B, joint width) and of the classes (K, joint
            width).
    """
    terms = model.method.consistency_of
    needs_images = "image" in terms or "logits" in terms
    frozen = model.frozen_image_features(image) if needs_images else features
    return distance(terms, model.logit_scale, (features, texts), (frozen, model.frozen_text_features()))


def distance(terms: Collection[str], logit_scale: Tensor, ours: Features, theirs: Features) -> Tensor:
    """The sum of `terms`, of TERMS, between two models on the same images.

    Args:
        ours, theirs: unit features of images (B, joint width) and of classes (K, joint width).
    """
    total = ours[0].new_zeros(())
    if "text" in terms:
        total = total + 1 - (ours[1] * theirs[1]).sum(-1).mean()
    if "image" in terms:
        total = total + 1 - (ours[0] * theirs[0]).sum(-1).mean()
    if "logits" in terms:
        before, after = ((logit_scale * f @ t.t()).log_softmax(-1) for f, t in (theirs, ours))
        total = total + F.kl_div(after, before, reduction="batchmean", log_target=True)
    return total
