"""Pictures for the pre-training: digits and capital letters in matplotlib's fonts, bent towards handwriting.

No handwritten image is used: what is known of the target is only its format (light strokes on dark, few pixels).
"""

import glob
import os

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZE = 64  # pixels
FAMILIES = ("DejaVu", "STIXGeneral", "cmr10", "cmb10", "cmss10", "cmtt10", "cmti10")


def fonts() -> list:
    """Paths of the fonts in matplotlib that have all the characters."""
    folder = os.path.join(os.path.dirname(matplotlib.__file__), "mpl-data", "fonts", "ttf")
    paths = sorted(glob.glob(os.path.join(folder, "*.ttf")))
    return [p for p in paths if os.path.basename(p).startswith(FAMILIES) and "Display" not in p]


def render(height: int = 48) -> Tensor:
    """Every character in every font, centred, `height` pixels tall, light on dark: (fonts, characters, 64, 64) in [0, 1]."""
    glyphs = []
    for path in fonts():
        font = ImageFont.truetype(path, 96)
        for character in CHARACTERS:
            left, top, right, bottom = font.getbbox(character)
            ink = Image.new("L", (right - left, bottom - top))
            ImageDraw.Draw(ink).text((-left, -top), character, font=font, fill=255)
            width = min(round(ink.width * height / ink.height), SIZE)
            ink = ink.resize((width, height), Image.BICUBIC)
            glyph = Image.new("L", (SIZE, SIZE))
            glyph.paste(ink, ((SIZE - width) // 2, (SIZE - height) // 2))
            glyphs.append(np.asarray(glyph))
    return torch.from_numpy(np.stack(glyphs)).float().div(255).view(-1, len(CHARACTERS), SIZE, SIZE)


def coarsen(pixels: int) -> Tensor:
    """(64, 64) matrix that shrinks a column to `pixels` by averaging and enlarges it again as PIL's bicubic does."""
    down = np.array(Image.fromarray(np.eye(SIZE, dtype=np.float32)).resize((SIZE, pixels), Image.BOX))
    up = np.array(Image.fromarray(np.eye(pixels, dtype=np.float32)).resize((pixels, SIZE), Image.BICUBIC))
    return torch.from_numpy(up @ down)


class Scribble:
    """Bends clean glyphs towards handwriting: slant, turn, stretch, shift, wobble, stroke width, few pixels, ink.

    Args:
        parts: a batch is cut into this many parts; stroke width and resolution are drawn per part.
    """

    def __init__(self, parts: int = 8) -> None:
        self.parts = parts
        self.coarse = torch.stack([coarsen(n) for n in (8, 8, 8, 9, 11, 16, 32, 64)])

    def __call__(self, glyphs: Tensor, strength: float, random: torch.Generator) -> Tensor:
        """(B, 64, 64) in [0, 1] -> the same shape; strength 0 hardly moves anything, 1 is the full range."""
        pictures = F.grid_sample(glyphs[:, None], self.where(len(glyphs), strength, random), align_corners=False)[:, 0]
        pictures = torch.cat([self.redraw(part, strength, random) for part in pictures.chunk(self.parts)])
        ink = 1 - 0.3 * strength * torch.rand(len(glyphs), 1, 1, generator=random)
        gamma = torch.exp(0.4 * strength * between(-1, 1, (len(glyphs), 1, 1), random))
        return ink * pictures.clamp(0, 1) ** gamma

    def where(self, n: int, strength: float, random: torch.Generator) -> Tensor:
        """Where in the glyph each pixel looks: (n, 64, 64, 2), in units of half the picture."""

        def draw(low: float, high: float) -> Tensor:
            return strength * between(low, high, (n,), random)

        turn, slant = draw(-0.25, 0.25), draw(-0.35, 0.35)
        wide, tall = torch.exp(-0.1 - draw(-0.25, 0.3)), torch.exp(-0.1 - draw(-0.1, 0.2))
        cos, sin = turn.cos(), turn.sin()
        rows = [cos * wide, -sin * tall + slant, draw(-0.15, 0.15), sin * wide, cos * tall, draw(-0.12, 0.12)]
        where = F.affine_grid(torch.stack(rows, -1).view(n, 2, 3), (n, 1, SIZE, SIZE), align_corners=False)
        wobble = 0.09 * strength * torch.randn(n, 2, 4, 4, generator=random)
        wobble = F.interpolate(wobble, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
        return where + wobble.permute(0, 2, 3, 1)

    def redraw(self, pictures: Tensor, strength: float, random: torch.Generator) -> Tensor:
        """Thicker strokes and fewer pixels, one choice for the whole part: (n, 64, 64) -> (n, 64, 64)."""
        radius = int(torch.randint(0, 2 + round(3 * strength), (), generator=random))
        thick = F.max_pool2d(pictures[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]
        coarse = self.coarse[torch.randint(0, len(self.coarse), (), generator=random)]
        return coarse @ thick @ coarse.T


def between(low: float, high: float, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Uniform random numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=random)
