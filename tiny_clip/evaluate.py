"""What a small CLIP knows before it is tuned: python -m tiny_clip.evaluate [--weights FILE]

Zero-shot accuracy on handwriting that no training has seen; on glyphs in colours, on a texture and in fonts that were
kept from training, with 95 % Wilson intervals; and how much EOS attends to SOS.
"""

import argparse
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from promptbias.model.backbones import openai
from promptbias.model.backbones.build import build
from promptbias.model.loading import import_clip
from promptbias.utils.errors import cli
from promptbias.utils.markdown import markdown_table

from . import MEAN, STD, WEIGHTS
from .captions import DIGITS, LETTERS
from .glyphs import CHARACTERS, SIZE, Scribble, render, uniform

TEMPLATES = (
    "a photo of the digit {}.",
    "a photo of a {}.",
    "a handwritten {}.",
    "{}.",
    "X X X X {}.",
    "X X X X X X X X X X {}.",
    "X X X X X X X X X X X X X X X X X X X X {}.",
)
GLYPH = "a photo of a {}."
HELD_OUT_COLOURS = {"cyan": (0.1, 0.95, 0.95), "magenta": (0.95, 0.1, 0.9), "orange": (1.0, 0.55, 0.1)}
COUNT = 720  # images of each held-out kind


def handwritten(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: pixels (1797, 3, size, size) in [0, 1] and labels (1797,)."""
    digits = load_digits()
    images = [Image.fromarray(np.uint8(np.round(image * 255 / 16))) for image in digits.images]
    grey = np.stack([np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in images])
    pixels = torch.from_numpy(grey).float().div(255)[:, None].expand(-1, 3, -1, -1)
    return pixels, torch.from_numpy(digits.target)


def inked(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Distorted glyphs (COUNT, 1, 64, 64) in matplotlib's fonts, and their labels among CHARACTERS."""
    glyphs = render()
    labels = torch.arange(COUNT) % len(CHARACTERS)
    fonts = torch.randint(len(glyphs), (COUNT,), generator=draw)
    return Scribble()(glyphs[fonts, labels], 0.7, draw)[:, None], labels


def in_held_out_colours() -> tuple[Tensor, Tensor]:
    """Glyphs in HELD_OUT_COLOURS on black: pixels (COUNT, 3, 64, 64) and labels."""
    ink, labels = inked(torch.Generator().manual_seed(1))
    colours = torch.tensor(list(HELD_OUT_COLOURS.values()))
    return ink * colours[torch.arange(COUNT) // len(CHARACTERS) % len(colours)][:, :, None, None], labels


def on_held_out_texture() -> tuple[Tensor, Tensor]:
    """Light glyphs on dots: pixels (COUNT, 3, 64, 64) and labels."""
    draw = torch.Generator().manual_seed(2)
    ink, labels = inked(draw)
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    period = uniform(0.25, 0.6, (COUNT, 1), draw)
    squares = (((axis + uniform(0, 1, (COUNT, 1), draw)) / period) % 1 - 0.5).square()
    dots = (squares[:, :, None] + squares[:, None] < 0.08).float()[:, None] * uniform(0.2, 0.5, (COUNT, 3, 1, 1), draw)
    return dots * (1 - ink) + ink, labels


def in_held_out_fonts(dataset: str) -> tuple[Tensor, Tensor]:
    """The test images of Letters or LowerLetters, in Hershey's fonts: pixels (520, 3, 64, 64) and labels."""
    draw = getattr(importlib.import_module("promptbias.datasets.letters"), dataset).draw
    test = [(path.split("/")[2], image) for path, image in draw() if path.startswith("images/test/")]
    pixels = torch.from_numpy(np.stack([image for _, image in test])).float().div(255)
    labels = torch.tensor([CHARACTERS.index(letter.upper()) for letter, _ in test])
    return pixels[:, None].expand(-1, 3, -1, -1), labels


HELD_OUT: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "colours: cyan, magenta, orange": in_held_out_colours,
    "a texture: dots": on_held_out_texture,
    "fonts: Hershey's, capital letters": lambda: in_held_out_fonts("Letters"),
    "fonts: Hershey's, lower-case letters": lambda: in_held_out_fonts("LowerLetters"),
}


@torch.no_grad()
def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Pixels (B, 3, 64, 64) in [0, 1] -> unit vectors (B, 128)."""
    mean, std = (torch.tensor(t).view(3, 1, 1) for t in (MEAN, STD))
    return F.normalize(torch.cat([model.encode_image(part) for part in ((pixels - mean) / std).split(200)]), dim=-1)


@torch.no_grad()
def text_features(model: Any, template: str, names: list[str] = DIGITS) -> Tensor:
    """Unit vectors (K, 128), one for each name."""
    tokens = import_clip()[0].tokenize([template.format(name) for name in names])
    return F.normalize(model.encode_text(tokens), dim=-1)


def accuracy(images: Tensor, texts: Tensor, labels: Tensor) -> float:
    """Share of the images (B, 128) whose nearest text (K, 128) is that of their label (B,)."""
    return ((images @ texts.T).argmax(-1) == labels).float().mean().item()


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of `count` images.

    >>> [round(end, 3) for end in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return middle - reach, middle + reach


@torch.no_grad()
def sos_attention(model: Any) -> Tensor:
    """EOS' attention on SOS in each block and head of the text branch, (L, H), mean over the captions GLYPH."""
    tokens = import_clip()[0].tokenize([GLYPH.format(name) for name in [*DIGITS, *LETTERS]])
    x = model.token_embedding(tokens) + model.positional_embedding
    rows, found = torch.arange(len(tokens)), []
    for block in model.transformer.resblocks:
        attn = block.attn
        q, k, _ = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        q, k = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + block.attn_mask
        found.append(scores.softmax(-1)[rows, :, tokens.argmax(-1), 0].mean(0))
        x = block(x.transpose(0, 1)).transpose(0, 1)
    return torch.stack(found)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tiny_clip.evaluate", description=__doc__)
    parser.add_argument("--weights", default=WEIGHTS, help="safetensors file of `tiny_clip`")
    model: Any = build(openai.embedded_file("these weights", parser.parse_args(argv).weights))
    pixels, labels = handwritten()
    images = image_features(model, pixels)
    rows: list[list[str]] = []
    for template in TEMPLATES:
        share = accuracy(images, text_features(model, template), labels)
        rows.append([f"handwriting, “{template}”", *shown(share, len(labels), len(DIGITS))])
    names = [*DIGITS, *LETTERS]
    texts = text_features(model, GLYPH, names)
    for title, draw in HELD_OUT.items():
        pixels, labels = draw()
        share = accuracy(image_features(model, pixels), texts, labels)
        rows.append([title, *shown(share, len(labels), len(names))])
    print(markdown_table(rows, ["zero-shot", "accuracy %", "95 %", "chance %"]))
    shares = sos_attention(model)
    print("\nEOS' attention on SOS in %, mean over heads, block 1, 2, ...: ", end="")
    print(", ".join(f"{100 * share:.1f}" for share in shares.mean(1).tolist()) + f"; mean {100 * shares.mean():.1f}")


def shown(share: float, count: int, classes: int) -> list[str]:
    """Accuracy, interval and chance in %."""
    low, high = wilson(share, count)
    return [f"{100 * share:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", f"{100 / classes:.1f}"]


if __name__ == "__main__":
    cli(main)
