"""Zero-shot accuracy of the tiny CLIP on scikit-learn's handwritten digits: python -m tiny_clip.evaluate"""

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from promptbias.model.loading import import_clip
from promptbias.utils.errors import cli

from . import MEAN, STD, WEIGHTS, state_dict
from .captions import DIGITS

TEMPLATES = (
    "a photo of the digit {}.",
    "a photo of a {}.",
    "a handwritten {}.",
    "{}.",
    "X X X X {}.",
    "X X X X X X X X X X {}.",
    "X X X X X X X X X X X X X X X X X X X X {}.",
)


def handwritten(size: int = 64) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: normalised pixels (1797, 3, size, size) and labels (1797,)."""
    digits = load_digits()
    images = [Image.fromarray(np.uint8(np.round(image * 255 / 16))) for image in digits.images]
    grey = np.stack([np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in images])
    pixels = torch.from_numpy(grey).float().div(255)[:, None].expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(t).view(3, 1, 1) for t in (MEAN, STD))
    return (pixels - mean) / std, torch.from_numpy(digits.target)


@torch.no_grad()
def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Pixels (B, 3, 64, 64) -> unit vectors (B, 128)."""
    return F.normalize(torch.cat([model.encode_image(part) for part in pixels.split(200)]), dim=-1)


@torch.no_grad()
def text_features(model: Any, template: str) -> Tensor:
    """Unit vectors (10, 128), one for each digit."""
    tokens = import_clip()[0].tokenize([template.format(name) for name in DIGITS])
    return F.normalize(model.encode_text(tokens), dim=-1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tiny_clip.evaluate", description=__doc__)
    parser.add_argument("--weights", default=WEIGHTS, help="safetensors file")
    model = import_clip()[1].build_model(state_dict(parser.parse_args(argv).weights)).float()
    pixels, labels = handwritten()
    images = image_features(model, pixels)
    for template in TEMPLATES:
        predicted = (images @ text_features(model, template).T).argmax(-1)
        print(f"{100 * (predicted == labels).float().mean():5.1f} %  {template}")


if __name__ == "__main__":
    cli(main)
