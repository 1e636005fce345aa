"""Zero-shot accuracy of the tiny CLIP on scikit-learn's handwritten digits: python -m tiny_clip.evaluate"""

import argparse
import warnings

warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

import numpy as np
import torch
import torch.nn.functional as F
from clip import tokenize
from clip.model import CLIP, build_model
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from tiny_clip import MEAN, STD, WEIGHTS, state_dict
from tiny_clip.captions import DIGITS
from promptbias.utils.errors import cli

TEMPLATES = (
    "a photo of the digit {}.",
    "a photo of a {}.",
    "a handwritten {}.",
    "{}.",
    "X X X X {}.",
    "X X X X X X X X X X {}.",
    "X X X X X X X X X X X X X X X X X X X X {}.",
)


def handwritten(size: int = 64):
    """-> pixels (1797, 3, size, size), normalised, and labels (1797,)."""
    digits = load_digits()
    images = [Image.fromarray(np.uint8(np.round(image * 255 / 16))) for image in digits.images]
    grey = np.stack([np.asarray(image.resize((size, size), Image.BICUBIC)) for image in images])
    pixels = torch.from_numpy(grey).float().div(255)[:, None].expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(t).view(3, 1, 1) for t in (MEAN, STD))
    return (pixels - mean) / std, torch.from_numpy(digits.target)


@torch.no_grad()
def image_features(clip: CLIP, pixels: Tensor) -> Tensor:
    """(B, 3, 64, 64) -> unit vectors (B, 128)."""
    return F.normalize(torch.cat([clip.encode_image(part) for part in pixels.split(200)]), dim=-1)


@torch.no_grad()
def text_features(clip: CLIP, template: str) -> Tensor:
    """-> unit vectors (10, 128), one for each digit."""
    return F.normalize(clip.encode_text(tokenize([template.format(name) for name in DIGITS])), dim=-1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tiny_clip.evaluate", description=__doc__)
    parser.add_argument("--weights", default=WEIGHTS, help="safetensors file")
    clip = build_model(state_dict(parser.parse_args(arguments).weights)).float()
    pixels, labels = handwritten()
    images = image_features(clip, pixels)
    for template in TEMPLATES:
        predicted = (images @ text_features(clip, template).T).argmax(-1)
        print(f"{100 * (predicted == labels).float().mean():5.1f} %  {template}")


if __name__ == "__main__":
    cli(main)
