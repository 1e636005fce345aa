"""What the report's page lets one explore: maps of a few test images, small enough to travel inside the page."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from promptbias.interp.cache import PATTERN, capture
from promptbias.interp.relevancy import relevancy, shares
from promptbias.interp.token_layout import vision_columns
from promptbias.model.texts import words_of
from promptbias.model.tuned_clip import TunedCLIP

from .comparison import Comparison

SHOWN = 36  # images, at most
MAP_BYTES = 3_000_000  # of all maps together in base64, at most: deeper models show fewer images
SIDE = 224  # pixels of a picture, at most
CHANGES = {
    (False, True): "corrected",
    (True, False): "broken",
    (True, True): "right in both",
    (False, False): "wrong in both",
}


@dataclass(frozen=True)
class Exploration:
    """What can be explored.

    Attributes:
        images: for each image what `explored` returns.
        blocks, heads, side: of the vision branch; `side` is that of the grid of patches.
        total: images of the test set that these were taken from, evenly over the classes.
    """

    images: list[dict[str, Any]]
    blocks: int
    heads: int
    side: int
    total: int


def explore(comparison: Comparison, count: int = SHOWN) -> Exploration:
    """Maps of at most `count` test images, evenly over the classes, in plain CLIP and in the tuned run."""
    vision = comparison.plain.vision
    L, H, M = len(vision.blocks), vision.heads, vision.patches
    count = max(1, min(count, len(comparison), MAP_BYTES // (2 * (L * H + 1) * M * 4 // 3)))
    few = comparison.stratified(count)
    models = comparison.plain, comparison.tuned
    text = [model.text_features().detach() for model in models]
    images = [
        explored(comparison, index, *few.image(index), [model.logit_scale * g.T for model, g in zip(models, text)])
        for index in few.indices
    ]
    return Exploration(images, L, H, int(M**0.5), comparison.total)


def explored(comparison: Comparison, index: int, image: Tensor, label: int, heads: list[Tensor]) -> dict[str, Any]:
    """One image (1, 3, S, S) of class `label`, as the page's script reads it.

    "attention" (L, H, M) and "relevancy" (M) of both models hold bytes: the value is byte / 255 times "attention_scale"
    (L, H) or "relevancy_scale", which both models share, so that their difference is that of the values.

    Args:
        heads: τ gᵀ (D, K) of plain CLIP and of the tuned run.
    """
    attention, relevant, of_models = [], [], []
    for model, weights in zip((comparison.plain, comparison.tuned), heads):
        A, f = cls_attention_by_head(model, image)
        probability = (f @ weights).softmax(-1)[0]
        k = int(probability.argmax())
        of_image, tokens = relevancy_of(model, image, label)
        attention.append(A)
        relevant.append(of_image)
        of_models.append({"class": comparison.classnames[k], "probability": float(probability[k]), "tokens": tokens})
    maps, scale = quantised(np.stack(attention))
    relevancy_maps, relevancy_scale = quantised(np.stack(relevant))
    for i, found in enumerate(of_models):
        found |= {"attention": encoded(maps[i].tobytes()), "relevancy": encoded(relevancy_maps[i].tobytes())}
    truth = comparison.classnames[label]
    plain, tuned = of_models
    return {
        "index": index,
        "true": truth,
        "change": CHANGES[plain["class"] == truth, tuned["class"] == truth],
        "picture": jpeg(comparison.picture(image)),
        "attention_scale": scale.ravel().round(6).tolist(),
        "relevancy_scale": float(relevancy_scale),
        "plain": plain,
        "tuned": tuned,
    }


@torch.no_grad()
def cls_attention_by_head(model: TunedCLIP, image: Tensor) -> tuple[np.ndarray, Tensor]:
    """Attention of [cls] on the patches of an image (1, 3, S, S), (L, H, M), and the image's features (1, D)."""
    with capture(model.vision, f"blocks.*.{PATTERN}") as cache:
        features = model.image_features(image)
    patches = vision_columns(model)["patches"]
    return torch.stack([A[0, :, 0, patches] for A in cache.by_block(PATTERN).values()]).cpu().numpy(), features


def relevancy_of(model: TunedCLIP, image: Tensor, label: int) -> tuple[np.ndarray, list[list[Any]]]:
    """Relevancy of the patches for the text of class `label`, 1 being the average patch, (M,), and of its tokens.

    Returns:
        The map, and [token, share of the text's relevancy] in order: start, prompts, words.
    """
    rows = relevancy(model, image, torch.tensor([label], device=image.device))
    M, T = model.vision.patches, model.adapters.text.prompt_count
    tokens = model.text.tokens[label]
    eos = int(tokens.argmax())
    share = shares(rows.text)[0, :eos].tolist()
    found = [["[start]", share[0]]] + [[f"prompt {i}", share[i]] for i in range(1, 1 + T)]
    at = 1 + T
    for word, length in words_of(tokens[at:eos].tolist()):
        found.append([word, sum(share[at : at + length])])
        at += length
    return (M * shares(rows.vision[0, :M])).cpu().numpy(), [[word, round(value, 5)] for word, value in found]


def quantised(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps of both models (2, ..., M), not negative, as bytes, and the value of byte 255, (...), which both share."""
    scale = maps.max((0, -1))
    divisor = np.where(scale > 0, scale, 1)[..., None]
    return (255 * maps / divisor).round().astype(np.uint8), scale


def jpeg(picture: np.ndarray) -> str:
    """A picture (S, S, 3) from 0 to 1 as an address that holds it."""
    image = Image.fromarray((255 * picture).round().astype(np.uint8))
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + encoded(file.getvalue())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
