"""Faithfulness of relevancy maps, by deletion.

Patches are deleted in the order of a map, the most relevant first or the least relevant first, and the accuracy is
followed. A faithful map makes the first curve fall early and the second one late; a random order lies between. The
maps are relevancy and, as a simple baseline, the attention of [cls] in the last block, mean over heads. Relevancy of
the image's own class uses the label, which attention does not: keeping what speaks for the right class can even raise
the accuracy. So relevancy of the class that the model itself predicts is evaluated too.

Steps share no block, since a dropped token changes all others from the first one on. But patches are embedded once,
equal orders are followed once (the two relevancies are one where the model is right), steps with few tokens left are
run for many images at a time, also from several batches, one pass serves the prediction and two of the maps, and
float32 is left to close calls (see `Judge`).

Shapes: B images, I of all batches, M patches, F = len(FRACTIONS).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from promptbias.model.tuned_clip import TunedCLIP

from .accuracy import LabelledImages
from .cache import PATTERN, capture, gradients
from .deletion import Judge, features_of_rows, kept_rows
from .relevancy import row_of_cls

FRACTIONS = tuple(step / 10 for step in range(11))  # of the patches deleted
MAPS = {
    "own class": "relevancy, own class",
    "predicted class": "relevancy, predicted class",
    "attention": "attention of [cls], last block",
}
AT_ONCE = 128  # images, of which steps with few tokens left are run together
MOST, LEAST, RANDOM = "most relevant first", "least relevant first", "random order"
Curve = tuple[str, ...]  # (a map of MAPS, MOST or LEAST), or (RANDOM,)


def relevance_maps(model: TunedCLIP, image: Tensor, label: Tensor, texts: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Relevancy of the image's own class and attention, (B, M) each, and the classes that the model predicts, (B,).

    Args:
        texts: text features (K, joint width).
    """
    patches, last = model.vision.patches, f"blocks.{len(model.vision.blocks) - 1}.{PATTERN}"
    with capture(model.vision, gradient=True) as cache:
        logits = model.logit_scale * model.image_features(image) @ texts.T
        (gradient,) = gradients(logits.gather(1, label[:, None]).sum(), cache)
    with torch.no_grad():
        own = row_of_cls(model, cache, gradient)[:, :patches]
        return {"own class": own, "attention": cache[last][:, :, 0, 1 : 1 + patches].mean(1)}, logits.argmax(-1)


def in_groups(batches: LabelledImages, count: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Batches in groups of at least `count` images, the last one perhaps of fewer."""
    group: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        group.append(batch)
        if sum(len(label) for _, label in group) >= count:
            yield group
            group = []
    if group:
        yield group


def maps_of_batches(
    model: TunedCLIP, batches: Sequence[tuple[Tensor, Tensor]], texts: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """MAPS of all I images of some batches, (I, M) each, and the classes that the model predicts, (I,).

    Batches stay apart, since the gradients need more memory than deletion does.

    Args:
        texts: text features (K, joint width).
    """
    parts = [relevance_maps(model, image, label, texts) for image, label in batches]
    maps = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0]}
    image, label = (torch.cat(tensors) for tensors in zip(*batches))
    predicted = torch.cat([of_batch for _, of_batch in parts])
    of_predicted, wrong = maps["own class"].clone(), (predicted != label).nonzero()[:, 0]
    # Elsewhere the two relevancies are one. Split, no images at all would be one empty batch.
    for some in wrong.split(len(batches[0][1])) if len(wrong) else ():
        again, _ = relevance_maps(model, image[some], predicted[some], texts)
        of_predicted[some] = again["own class"]
    return {"own class": maps["own class"], "predicted class": of_predicted, "attention": maps["attention"]}, predicted


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
def deletion_outcomes(
    judge: Judge,
    model: TunedCLIP,
    tokens: Tensor,
    label: Tensor,
    orders: dict[Curve, Tensor],
    texts: Tensor,
    fractions: Sequence[float] = FRACTIONS,
) -> dict[Curve, Tensor]:
    """Whether each image is right after deleting each of `fractions` of its patches in orders (B, M): (F, B), bool.

    Args:
        judge: for models on this backbone.
        tokens: of the images (B, 1 + M, D), embedded by the model.
        texts: text features (K, joint width).
    """
    # Every order of every image, equal ones once: (C, 1 + M), the image's index first.
    index = torch.arange(len(label), device=label.device)[:, None]
    every = torch.cat([torch.cat([index, order], 1) for order in orders.values()])
    unique, which = every.unique(dim=0, return_inverse=True)
    images, order = unique[:, 0], unique[:, 1:]
    right = torch.stack(
        [judge.right(model, tokens, label, images, kept_rows(order, fraction), texts) for fraction in fractions]
    )
    return dict(zip(orders, right[:, which].cpu().split(len(label), 1)))


def deletion_curves(
    models: dict[str, TunedCLIP], batches: LabelledImages, seed: int = 0
) -> dict[str, dict[Curve, np.ndarray]]:
    """Whether each image is right with FRACTIONS of its patches deleted: model -> curve -> (F, I), bool.

    Args:
        models: on one backbone; the random orders are the same for all.
        seed: of the random orders.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = {name: model.text_features() for name, model in models.items()}
    found: dict[str, dict[Curve, list[Tensor]]] = {name: {} for name in models}
    one = next(iter(models.values()))
    judge, patches = Judge(one), one.vision.patches
    for parts in in_groups(batches, AT_ONCE):
        image, label = torch.cat([image for image, _ in parts]), torch.cat([label for _, label in parts])
        random = random_orders(image, patches, generator)
        for name, model in models.items():
            maps, predicted = maps_of_batches(model, parts, texts[name])
            with torch.no_grad():
                tokens = model.vision.embed(image)
                # With all patches or none the order does not matter; and without any, all images are one.
                empty = features_of_rows(model, tokens[:1], torch.zeros_like(label[:1, None])) @ texts[name].T
            ends = [(classes == label).cpu()[None] for classes in (predicted, empty.argmax(-1))]
            given = judge, model, tokens, label, deletion_orders(maps, random), texts[name]
            for curve, right in deletion_outcomes(*given, FRACTIONS[1:-1]).items():
                found[name].setdefault(curve, []).append(torch.cat([ends[0], right, ends[1]]))
    return {name: {curve: torch.cat(parts, 1).numpy() for curve, parts in of.items()} for name, of in found.items()}


def deletion_area(outcomes: np.ndarray) -> np.ndarray:
    """Areas under curves (F, ...) over FRACTIONS (trapezoid rule), (...): the mean outcome along the deletion.

    That of the accuracy is the mean of those of the images.
    """
    steps = np.diff(FRACTIONS).reshape(-1, *[1] * (np.ndim(outcomes) - 1))
    return (steps * (np.asarray(outcomes[1:], float) + outcomes[:-1]) / 2).sum(0)
