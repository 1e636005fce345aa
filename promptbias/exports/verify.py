"""Whether what a library loads is the tuned model."""

from typing import NamedTuple

import torch
from torch import Tensor

from promptbias.utils.errors import UserError

from .source import Source
from .target import Loaded, Target

ROUNDING = 1e-5  # by which cosines of unit vectors may differ in float32, on the way through all blocks


class Agreement(NamedTuple):
    """How far two models agree on some images.

    Attributes:
        difference: the largest, of all logits.
        same: images for which they name the same class.
        images: of so many.
    """

    difference: float
    same: int
    images: int

    def __str__(self) -> str:
        return f"largest difference of logits {self.difference:.1e}, same class for {self.same} of {self.images} images"


class Check(NamedTuple):
    """An export against the tuned model. A notebook shows its model card.

    Attributes:
        pixels: on the same pixels.
        preprocessed: with the library's own preprocessing, if it has one.
        card: the README.md of the export, in Markdown.
    """

    pixels: Agreement
    preprocessed: Agreement | None
    card: str = ""

    def _repr_markdown_(self) -> str:
        return self.card


def agreement(found: Tensor, expected: Tensor) -> Agreement:
    """Of logits (B, K)."""
    same = int((found.argmax(-1) == expected.argmax(-1)).sum())
    return Agreement(float((found - expected).abs().max()), same, len(expected))


def in_parts(loaded: Loaded, pixels: Tensor) -> Tensor:
    """Logits in batches of 1, 3, and the rest: an export takes any."""
    return torch.cat([loaded.logits(part) for part in pixels.tensor_split([1, 4]) if len(part)])


def verify(target: Target, source: Source, folder: str) -> Check:
    """Load what was written and compare it.

    Raises:
        UserError: it differs by more than rounding.
    """
    worst: list[Agreement] = []
    own: list[Agreement] = []
    reference, bound = target.reference(source), ROUNDING * float(source.model.logit_scale)
    for loaded in target.load(source, folder):
        with torch.no_grad():
            logits = in_parts(loaded, source.pixels)
            off = agreement(logits, reference)
            if not off.difference <= bound:  # NaN is no agreement either
                raise UserError(
                    f"what {target.library} loads is not the tuned model ({off}; rounding is {bound:.0e}), so nothing "
                    "was written; please report this with the versions of the packages"
                )
            worst.append(agreement(logits, source.logits))
            if loaded.preprocess is not None:
                pixels = torch.stack([loaded.preprocess(image) for image in source.images])
                own.append(agreement(in_parts(loaded, pixels), source.logits))
    return Check(max(worst), max(own) if own else None)
