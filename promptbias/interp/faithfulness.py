"""Faithfulness of relevancy maps, by deletion.

Patches are deleted in the order of a map, the most relevant first or the least relevant first, and the accuracy is
followed. A faithful map makes the first curve fall early and the second one late; a random order lies between. A
deleted patch's token is dropped from the sequence, after the positional embedding. The maps are relevancy and, as a
simple baseline, the attention of [cls] in the last block, mean over heads. Relevancy of the image's own class uses the
label, which attention does not: keeping what speaks for the right class can even raise the accuracy. So relevancy of
the class that the model itself predicts is evaluated too.

Shapes: B images, M patches, F = len(FRACTIONS).
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.metrics import auc
from torch import Tensor

from promptbias.model.adapter import Adapter
from promptbias.model.encoder import Tower
from promptbias.model.tuned_clip import TunedCLIP

from .accuracy import LabelledImages
from .branches import VisionBranch
from .cache import PATTERN, capture
from .relevancy import relevancy

FRACTIONS = tuple(step / 10 for step in range(11))  # of the patches deleted
MAPS = {
    "own class": "relevancy, own class",
    "predicted class": "relevancy, predicted class",
    "attention": "attention of [cls], last block",
}
MOST, LEAST, RANDOM = "most relevant first", "least relevant first", "random order"
Curve = tuple[str, ...]  # (a map of MAPS, MOST or LEAST), or (RANDOM,)


class DropPatches(Adapter):
    """An adapter on vision tokens of which only `rows` (B, n) are left, [cls] first; prompts follow them directly."""

    def __init__(self, adapter: Adapter, rows: Tensor, patches: int) -> None:
        super().__init__()
        self.adapter, self.rows = copy.copy(adapter), rows
        if adapter.prompt_count:
            dropped, at = 1 + patches - rows.shape[1], adapter.prompts_at
            self.adapter.prompts_at = slice(at.start - dropped, at.stop - dropped)
        self.attaches_to = self.adapter.attaches_to
        self.prompts_at, self.prompt_depth = self.adapter.prompts_at, self.adapter.prompt_depth

    def on_embeddings(self, x: Tensor) -> Tensor:
        return self.adapter.on_embeddings(x.gather(1, self.rows[..., None].expand(-1, -1, x.shape[-1])))

    def pre_block(self, i: int, x: Tensor) -> Tensor:
        return self.adapter.pre_block(i, x)

    def post_block(self, i: int, x: Tensor) -> Tensor:
        return self.adapter.post_block(i, x)

    def on_activation(self, point: str, i: int, x: Tensor, source: Tensor | None) -> Tensor:
        return self.adapter.on_activation(point, i, x, source)

    def parameter(self, name: str, i: int, frozen: Tensor) -> Tensor:
        return self.adapter.parameter(name, i, frozen)

    def live_rows(self, i: int) -> slice:
        return self.adapter.live_rows(i)

    def fold(self, tower: Tower) -> None:
        self.adapter.fold(tower)


def last_cls_attention(branch: VisionBranch, image: Tensor, adapter: Adapter | None = None) -> Tensor:
    """Head-mean attention of [cls] to the patches in the last block, (B, M)."""
    last = f"blocks.{len(branch.tower.blocks) - 1}.{PATTERN}"
    with capture(branch.tower, last) as cache:
        branch.features(image, adapter=adapter)
    return cache[last][:, :, 0].mean(1)[:, 1 : 1 + branch.tower.patches]


def relevance_maps(model: TunedCLIP, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """MAPS of a batch, (B, M) each."""
    patches = model.vision.patches
    with torch.no_grad():
        predicted = model.logits(image).argmax(-1)
    return {
        "own class": relevancy(model, image, label)[0][:, :patches],
        "predicted class": relevancy(model, image, predicted)[0][:, :patches],
        "attention": last_cls_attention(VisionBranch(model), image),
    }


def random_orders(image: Tensor, patches: int, generator: torch.Generator) -> Tensor:
    """Random orders (B, M) for a batch of images, drawn image by image, so that none depends on the batch size."""
    return torch.stack([torch.randperm(patches, generator=generator) for _ in image]).to(image.device)


def deletion_orders(maps: dict[str, Tensor], random: Tensor) -> dict[Curve, Tensor]:
    """Orders of deletion (B, M) for maps (B, M) by name: (name, MOST), (name, LEAST); and (RANDOM,)."""
    orders: dict[Curve, Tensor] = {(RANDOM,): random}
    for name, values in maps.items():
        orders[name, MOST] = values.argsort(dim=1, descending=True, stable=True)
        orders[name, LEAST] = values.argsort(dim=1, stable=True)
    return orders


@torch.no_grad()
def deletion_hits(
    model: TunedCLIP, image: Tensor, label: Tensor, order: Tensor, texts: Tensor, fractions: Sequence[float] = FRACTIONS
) -> Tensor:
    """Number of images that are right after deleting each of `fractions` of their patches in `order` (B, M): (F,).

    Args:
        texts: text features (K, joint width).
    """
    features = (features_after_deletion(model, image, order, fraction) for fraction in fractions)
    return torch.stack([((f @ texts.T).argmax(-1) == label).sum() for f in features]).cpu()


@torch.no_grad()
def features_after_deletion(model: TunedCLIP, image: Tensor, order: Tensor, fraction: float) -> Tensor:
    """Unit vectors (B, joint width) of images after deleting a fraction of their patches in `order` (B, M)."""
    branch, patches = VisionBranch(model), order.shape[1]
    kept = 1 + order[:, round(fraction * patches) :]
    rows = torch.cat([torch.zeros_like(order[:, :1]), kept], 1)
    return branch.features(image, adapter=DropPatches(branch.adapter, rows, patches))


def deletion_curves(
    models: dict[str, TunedCLIP], batches: LabelledImages, seed: int = 0
) -> dict[str, dict[Curve, np.ndarray]]:
    """Accuracy in % at FRACTIONS of the patches deleted: model -> curve -> (F,).

    Args:
        models: on one backbone; the random orders are the same for all.
        seed: of the random orders.
    """
    generator, count = torch.Generator().manual_seed(seed), 0
    texts = {name: model.text_features() for name, model in models.items()}
    hits: dict[str, dict[Curve, Tensor]] = {name: {} for name in models}
    patches = next(iter(models.values())).vision.patches
    for image, label in batches:
        random = random_orders(image, patches, generator)
        for name, model in models.items():
            orders = deletion_orders(relevance_maps(model, image, label), random)
            # All patches or none: there the order does not matter.
            intact, empty = deletion_hits(model, image, label, random, texts[name], (0, 1))
            for curve, order in orders.items():
                between = deletion_hits(model, image, label, order, texts[name], FRACTIONS[1:-1])
                hits[name][curve] = hits[name].get(curve, 0) + torch.cat([intact[None], between, empty[None]])
        count += len(label)
    return {name: {curve: 100 * n.numpy() / count for curve, n in of.items()} for name, of in hits.items()}


def deletion_area(accuracy: Sequence[float] | np.ndarray) -> float:
    """Area under an accuracy curve over FRACTIONS (trapezoid rule): the mean accuracy along the deletion."""
    return float(auc(FRACTIONS, accuracy))
