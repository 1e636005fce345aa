"""One image and a few texts: what speaks for each text in the image and in its own words, and how far to believe it.

What is believed is tested on this very image, by deletion (see `faithfulness`): patches are removed, the most relevant
first, and the score that relevancy explains, y = τ cos(f, g), is followed. If the map is faithful y falls earlier than
in random orders: the area under it is smaller than under nearly all of theirs.

Shapes: M patches, F = len(FRACTIONS), R = RANDOM_ORDERS, W words.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from promptbias.model.texts import words_of
from promptbias.model.tuned_clip import TunedCLIP

from .deletion import features_of_rows, kept_rows
from .faithfulness import FRACTIONS, deletion_area, random_orders
from .relevancy import relevancy, shares

RANDOM_ORDERS = 20


@dataclass(frozen=True)
class ImageText:
    """What one model makes of an image and a text.

    Attributes:
        text: as it was given.
        score: y = τ cos(f, g).
        patches: (side, side), relevancy of the patches, as they lie in the image, over its mean: 1 is average.
        vision_prompts: share of the relevancy in the vision branch that prompts take.
        start, text_prompts: shares of SOS and of the prompts, in the text branch.
        words: the words that the model reads: all but those that prompts replace.
        word_shares: (W,), so that with `start` and `text_prompts` they sum to 1.
        deletion: (F,), y after deleting each of FRACTIONS of the patches, the most relevant first.
        random: (R, F), the same in random orders.
    """

    text: str
    score: float
    patches: np.ndarray
    vision_prompts: float
    start: float
    text_prompts: float
    words: list[str]
    word_shares: np.ndarray
    deletion: np.ndarray
    random: np.ndarray

    @property
    def area(self) -> float:
        """Area under `deletion`: the mean score along it. Small if the map is faithful."""
        return float(deletion_area(self.deletion))

    @property
    def random_areas(self) -> np.ndarray:
        """(R,), areas under `random`."""
        return np.array([deletion_area(curve) for curve in self.random])

    @property
    def beaten(self) -> int:
        """How many of the R random orders have a larger area than the map's own: about R/2 for a map of noise."""
        return int((self.random_areas > self.area).sum())

    def measured(self) -> dict[str, float]:
        """The numbers that matter, by what they are."""
        return {
            "score": self.score,
            "deletion area": self.area,
            "deletion area, random orders": float(self.random_areas.mean()),
            f"random orders beaten (of {RANDOM_ORDERS})": self.beaten,
            "share of prompts, vision": self.vision_prompts,
            "share of prompts, text": self.text_prompts,
        }


def image_texts(model: TunedCLIP, image: Tensor, seed: int = 0) -> list[ImageText]:
    """An image with each of the texts of a model.

    Args:
        model: its classes are the texts (see `with_texts`).
        image: (1, 3, S, S).
        seed: of the random orders, which are the same for all texts and all models on one backbone.
    """
    K, M = len(model.classnames), model.vision.patches
    of_image, of_text = relevancy(model, image.expand(K, -1, -1, -1), torch.arange(K, device=image.device))
    patches = of_image[:, :M]
    order = patches.argsort(dim=1, descending=True, stable=True)
    curves = deletion_scores(model, image, order, seed).cpu().numpy()  # (F, K + R, K)
    vision_shares, text_shares = shares(of_image).cpu(), shares(of_text).cpu()
    grids = (M * shares(patches)).reshape(K, int(M**0.5), -1).cpu().numpy()
    T = model.adapters.text.prompt_count
    found = []
    for k, text in enumerate(model.classnames):
        eos = int(model.text.tokens[k].argmax())
        words = words_of(model.text.tokens[k, 1 + T : eos].tolist())
        after_prompts = text_shares[k, 1 + T : eos].split([tokens for _, tokens in words])
        found.append(
            ImageText(
                text=text,
                score=float(curves[0, k, k]),
                patches=grids[k],
                vision_prompts=float(vision_shares[k, M:].sum()),
                start=float(text_shares[k, 0]),
                text_prompts=float(text_shares[k, 1 : 1 + T].sum()),
                words=[word for word, _ in words],
                word_shares=np.array([float(share.sum()) for share in after_prompts]),
                deletion=curves[:, k, k],
                random=curves[:, K:, k].T,
            )
        )
    return found


@torch.no_grad()
def deletion_scores(model: TunedCLIP, image: Tensor, order: Tensor, seed: int) -> Tensor:
    """y of an image (1, 3, S, S) with all K texts, while patches are deleted in K orders (K, M) and in R random ones.

    Returns:
        (F, K + R, K).
    """
    some = image.expand(RANDOM_ORDERS, -1, -1, -1)
    drawn = random_orders(some, order.shape[1], torch.Generator().manual_seed(seed))
    orders = torch.cat([order, drawn])
    tokens = model.vision.embed(image)
    features, one = [], torch.zeros(1, dtype=torch.long, device=image.device)
    for fraction in FRACTIONS:
        which = orders if 0 < fraction < 1 else orders[:1]  # all patches or none: there the order does not matter
        of_orders = features_of_rows(model, tokens, kept_rows(which, fraction), one.expand(len(which)))
        features.append(of_orders.expand(len(orders), -1))
    return model.logit_scale * torch.stack(features) @ model.text_features().T
